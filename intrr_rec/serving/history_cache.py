"""Keys and values of long histories that were asked for, so that a request that adds a few events pays for those alone.

Attention is causal and its biases hang on distances alone, so what a slot's keys and values are does not change when events are
added behind it; of the newest slot they may, by the moment of the request, and are not kept. A history longer than the window has
no known start: its oldest event leaves with each new one, and all that had looked at it changes.

Shape suffixes: P known events, E new events, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intrr_rec.data.loading.batch import Layout
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.models.backbones.hstu import Hstu
from intrr_rec.models.backbones.kv_cache import KeysValues
from intrr_rec.serving.bundle.trained import Trained

SHORTEST = 256  # events of a history that is worth a look
MOST_NEW = 256  # events that are added to a known history; for more, all of it is read anew
ROOM = 256  # events that may join a kept history before it is copied
FIRST = 64  # events that a history is found by


@dataclass(frozen=True)
class _Known:
    items_P: IntArray
    times_P: IntArray | None  # of the event after each: what its prediction was asked for
    layers: list[KeysValues]  # [H, P and room for more, F]

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for keys_values in self.layers for each in keys_values)


class HistoryCache:
    """The least recently used histories leave first.

    Args:
        trained: with an `Hstu` whose bundle reads no features.
        window: N.
        reads_times: whether the backbone does.
        most_bytes: that all keys and values may take together.
    """

    def __init__(self, trained: Trained, window: int, reads_times: bool, most_bytes: int) -> None:
        self.trained, self.window, self.reads_times, self.most_bytes = trained, window, reads_times, most_bytes
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def serves(trained: Trained | None) -> bool:
        """Whether a bundle's model is one whose histories can be kept."""
        return trained is not None and trained.features is None and isinstance(trained.backbone, Hstu)

    def holds(self, history: Sequence[int]) -> bool:
        """Whether a history is one to look up here."""
        return SHORTEST <= len(history) <= self.window

    def state(self, history: Sequence[int], times: Sequence[int] | None) -> Tensor:
        """The state after a history, `[1, D]`; of `times`, the last is that of the request."""
        items, moments = np.asarray(history, np.int64), np.asarray(times, np.int64) if self.reads_times else None
        key = items[:FIRST].tobytes()
        known = self._known.get(key)
        same = 0 if known is None else self._same(known, items, moments)
        backbone = self.trained.backbone
        assert isinstance(backbone, Hstu)
        device = self.trained.device
        clock = None if moments is None else torch.from_numpy(moments).to(device)
        if known is None or len(items) - same > MOST_NEW:
            x_TD = self.trained.rows.take(torch.from_numpy(items).to(device))
            spans = () if clock is None else (clock[None, :-1], clock[None, 1:])
            owner_1N = torch.zeros(1, len(items), dtype=torch.int64, device=device)
            last = torch.tensor([len(items) - 1], device=device)
            state_1D, packed = backbone.prefill(x_TD, Layout(owner_1N, *spans), last)
            same, layers = 0, [(k[0], v[0]) for k, v in packed]
        else:
            x_ED = self.trained.rows.take(torch.from_numpy(items[same:]).to(device))
            past = [(k[:, :same], v[:, :same]) for k, v in known.layers]
            spans_EK = (None, None) if clock is None else (clock[:-1], clock[1 + same :])
            state_ED, layers = backbone.extend(x_ED, past, *spans_EK)
            state_1D = state_ED[-1:]
        self._keep(key, items, moments, layers, same)
        return state_1D

    @staticmethod
    def _same(known: _Known, items: IntArray, moments: IntArray | None) -> int:
        """Events at the start that are known, the newest of all never among them."""
        most = min(len(known.items_P), len(items) - 1)
        is_same = known.items_P[:most] == items[:most]
        if moments is not None:
            assert known.times_P is not None
            is_same &= known.times_P[:most] == moments[1 : most + 1]
        return most if is_same.all() else int(is_same.argmin())

    def _keep(
        self, key: bytes, items: IntArray, moments: IntArray | None, fresh: Sequence[KeysValues], same: int
    ) -> None:
        """Keep a history in the place of the one known by `key`, which it shares `same` events with; `fresh` are the others'."""
        former, most = self._known.pop(key, None), len(items) - 1
        room = min(most + ROOM, self.window)
        kept = [
            (_joined(known_k, k, same, most, room), _joined(known_v, v, same, most, room))
            for (known_k, known_v), (k, v) in zip(
                former.layers if former else [(None, None)] * len(fresh), fresh, strict=True
            )
        ]
        if former is not None:
            self._bytes -= former.bytes
        self._known[key] = _Known(items[:-1], None if moments is None else moments[1:-1], kept)
        self._bytes += self._known[key].bytes
        while self._bytes > self.most_bytes:
            self._bytes -= self._known.popitem(last=False)[1].bytes


def _joined(known_HPF: Tensor | None, fresh_HEF: Tensor, same: int, most: int, room: int) -> Tensor:
    """The first `same` rows known, and fresh ones up to `most`, written in place where there is room for them."""
    if known_HPF is None or known_HPF.shape[1] < most:
        heads, _, width = fresh_HEF.shape
        wider_HPF = fresh_HEF.new_empty(heads, room, width)
        if known_HPF is not None:
            wider_HPF[:, :same] = known_HPF[:, :same]
        known_HPF = wider_HPF
    known_HPF[:, same:most] = fresh_HEF[:, : most - same]
    return known_HPF
