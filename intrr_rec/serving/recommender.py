"""Histories in, ranked items out: the door to a bundle for batch jobs, servers and programs.

Shape suffixes: B users, W beams, E events, I items, M items denied to a user, T token slots, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.features import HistoryFeatures
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.filters import Allowed
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.models.codes import item_codes
from intrr_rec.models.neighbours.terms import rank_neighbours
from intrr_rec.serving.answers import Prefix, Recommendation
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.trained import Trained
from intrr_rec.serving.filters import NOTHING, Filters
from intrr_rec.serving.history_cache import HistoryCache
from intrr_rec.serving.words import Features, numbers_of

KEPT_MASKS = 16
ALL = ("all",)  # key of the mask of filters that let every item pass
T = TypeVar("T")
Times = Sequence[Sequence[int] | None]
POPULAR_CHUNK = 1 << 16  # items, the most popular first, that filters are asked about together


Described = Features | HistoryFeatures  # features in words, or in numbers


class Recommender:
    """Recommends from a bundle.

    Args:
        bundle: opened; its device is the recommender's.
        withdrawn: dense ids of items that nobody gets, whatever the filters say.
        cache_bytes: that keys and values of long histories may take, kept for requests that add to them; 0 keeps none.
    """

    def __init__(self, bundle: Bundle, withdrawn: Sequence[int] = (), cache_bytes: int = 0) -> None:
        self.bundle = bundle
        self._withdrawn = np.unique(np.array(withdrawn, np.int64))
        self.window = bundle.settings.model.window
        self._masks: dict[tuple, Tensor] = {}
        self._cache: HistoryCache | None = None
        if cache_bytes and bundle.trained is not None and HistoryCache.serves(bundle.trained):
            reads_times = bundle.settings.model.reads_times
            self._cache = HistoryCache(bundle.trained, self.window, reads_times, cache_bytes)
        if len(self._withdrawn):
            self._before(NOTHING, ALL)  # made here, not by the first request

    @classmethod
    def open(cls, path: Path | str, device: torch.device | str = "cpu") -> Recommender:
        """A recommender over the bundle at `path`.

        Raises:
            ArtefactError: as `Bundle.load`.
        """
        return cls(Bundle.load(path, device))

    def without(self, withdrawn: Sequence[int]) -> Recommender:
        """One over the same bundle with other items withdrawn. Both keep the same histories, so one thread asks both."""
        other = Recommender(self.bundle, withdrawn)
        other._cache = self._cache
        return other

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        beam: int | None = None,
        filters: Filters | Sequence[Filters] = NOTHING,
        times: Times | None = None,
        features: Sequence[Described] | None = None,
    ) -> list[Recommendation]:
        """The k best items of each user, fewer only where fewer are allowed.

        Args:
            histories: dense ids, the oldest first; the model reads the last `window`. One that is empty gets the most
                popular items, scored by the logarithm of their share of the training part's events.
            k: items a user, at most `beam`.
            beam: W; None is the width the bundle was evaluated with.
            filters: for all users, or one a user.
            times: seconds since 1970 of each event, and last the moment of the request; needed by a model that reads times. Where users
                return to items they had, other rankings use them too; None of a history whose times are not known.
            features: what is known of each history, for a model that reads features; None: nothing.

        Raises:
            ConfigError: k or beam out of range, a filter the bundle cannot answer, or `times` missing.
            DataError: an item outside the catalogue, times that do not fit their history, or a feature that there is not.
        """
        items_BW, scores_BW = self.rank(histories, k, beam, filters, times, features)
        answers = []
        for items, scores in zip(items_BW.tolist(), scores_BW.tolist(), strict=True):
            found = [item for item in items if item >= 0]
            sids = [tuple(codes) for codes in self.bundle.codes_IL[found].tolist()]
            answers.append(Recommendation(found, scores[: len(found)], sids))
        return answers

    @torch.no_grad()
    def rank(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        beam: int | None = None,
        filters: Filters | Sequence[Filters] = NOTHING,
        times: Times | None = None,
        features: Sequence[Described] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`recommend` as tensors on the CPU: dense ids `[B, k]` (-1 where a place is left empty) and scores."""
        beam = self._beam(k, beam)
        each = [filters] * len(histories) if isinstance(filters, Filters) else list(filters)
        self._check(histories, each, times)
        numbers = self._numbers(histories, times, features)
        items_BW = torch.full((len(histories), k), -1)
        scores_BW = torch.full((len(histories), k), -torch.inf)
        groups: dict[tuple[bool, tuple | None], list[int]] = {}
        shared = {id(chosen): self._shared(chosen) for chosen in each}
        for user, (history, chosen) in enumerate(zip(histories, each, strict=True)):
            groups.setdefault((len(history) > 0, shared[id(chosen)]), []).append(user)
        for (has_history, _), users in groups.items():
            theirs = [histories[user] for user in users], [each[user] for user in users]
            if has_history:
                found = self._decode(*theirs, beam, _some(users, times), _some(users, numbers))
            else:
                found = self._popular(*theirs, k)
            places = min(k, found[0].shape[1])
            items_BW[users, :places] = found[0][:, :places].cpu()
            scores_BW[users, :places] = found[1][:, :places].cpu()
        return items_BW, scores_BW

    def require_some(self, filters: Filters) -> None:
        """`Filters.require_some`, by the masks that are kept."""
        key = self._shared(filters)
        if filters.looks_at_items and key is not None and not int(self._before(filters, key)[-1]):
            raise filters.none_passes()

    @torch.no_grad()
    def trace(
        self,
        history: Sequence[int],
        beam: int | None = None,
        filters: Filters = NOTHING,
        times: Sequence[int] | None = None,
        features: Described | None = None,
    ) -> list[list[Prefix]]:
        """The prefixes kept at each level of one user's beam, best first; none of an empty history or a model without a beam."""
        beam = self._beam(1, beam)
        moments = None if times is None else [times]
        self._check([history], [filters], moments)
        numbers = self._numbers([history], moments, None if features is None else [features])
        if not len(history) or self.bundle.trained is None:
            return []
        state_BD = self.bundle.model.states(self._batch([history], moments, numbers))
        ranker, levels = self.bundle.model.ranker, list[tuple[Tensor, Tensor]]()
        beam_search(
            ranker.ran,
            ranker.trie,
            state_BD,
            beam,
            self.bundle.settings.evaluate.normalize,
            self._allowed([history], [filters]),
            levels,
        )
        return [
            [
                Prefix(tuple(codes), score)
                for codes, score in zip(codes_BWL[0].tolist(), score_BW[0].tolist(), strict=True)
                if score > -np.inf
            ]
            for codes_BWL, score_BW in levels
        ]

    @torch.no_grad()
    def redistribution(self, item: int) -> list[list[float]]:
        """p_l of an item (Eq. 5), level by level: K_l probabilities each; of a newcomer without content, its Semantic ID; nothing
        where no model was trained.

        Raises:
            DataError: an item outside the catalogue.
        """
        self._check([[item]], [NOTHING], None, timed=False)
        bundle, model = self.bundle, self.bundle.trained
        if model is None:
            return []
        items_U = torch.tensor([item], device=bundle.device)
        if bundle.items.newcomer_I[item] and not bundle.settings.model.content:
            sizes = bundle.settings.codes_per_level
            return [
                [float(code == own) for code in range(size)]
                for size, own in zip(sizes, bundle.codes_IL[item].tolist(), strict=True)
            ]
        guidance_UD = model.guidance(items_U)
        if bundle.settings.model.item_side == "redistribution":
            log_p = model.item_ran.redistribute(guidance_UD, model.item_codebooks)[1]
        else:
            logits = model.item_ran.teacher_forced(
                guidance_UD, item_codes(bundle.codes_IL, items_U), model.item_codebooks
            )
            log_p = [level.log_softmax(-1) for level in logits]
        return [level[0].exp().tolist() for level in log_p]

    @torch.no_grad()
    def states(
        self,
        histories: Sequence[Sequence[int]],
        times: Times | None = None,
        features: Sequence[Described] | None = None,
    ) -> Tensor:
        """h_u of each user, `[B, D]`; no history may be empty, and the rest is as in `recommend`.

        Raises:
            ConfigError: also of a bundle without a trained model.
        """
        self._check(histories, [NOTHING] * len(histories), times)
        return self.bundle.model.states(self._batch(histories, times, self._numbers(histories, times, features)))

    def _decode(
        self,
        histories: Sequence[Sequence[int]],
        filters: Sequence[Filters],
        beam: int,
        times: Times | None,
        features: Sequence[HistoryFeatures] | None,
    ) -> tuple[Tensor, Tensor]:
        batch = self._batch(histories, times, features)
        allowed, bundle = self._allowed(histories, filters), self.bundle
        if bundle.trained is None:
            assert bundle.neighbours is not None
            return rank_neighbours(bundle.neighbours, batch, beam, allowed)
        settings = bundle.settings.evaluate.model_copy(update={"beam": beam})
        return bundle.trained.ranker.rank(
            self._states(bundle.trained, batch, histories, times), batch, settings, allowed
        )

    def _states(
        self, trained: Trained, batch: Batch, histories: Sequence[Sequence[int]], times: Times | None
    ) -> Tensor:
        """The state of each user, `[B, D]`; long histories are looked up."""
        cache = self._cache
        looked_up = [] if cache is None else [user for user, each in enumerate(histories) if cache.holds(each)]
        if cache is None or not looked_up:
            return trained.states(batch)
        found = {user: cache.state(histories[user], None if times is None else times[user]) for user in looked_up}
        if others := [user for user in range(len(histories)) if user not in found]:
            theirs = self._batch([histories[user] for user in others], _some(others, times), None)
            found.update(zip(others, trained.states(theirs).split(1), strict=True))
        return torch.cat([found[user] for user in range(len(histories))])

    def _batch(
        self,
        histories: Sequence[Sequence[int]],
        times: Times | None,
        features: Sequence[HistoryFeatures] | None,
    ) -> Batch:
        told = self.bundle.settings.model.reads_times
        read = times if told or self.bundle.settings.evaluate.ranks_returns else None
        read_features = None if features is None else (self.bundle.space, features)
        return Batch.from_histories(histories, self.window, read, read_features, told=told).to(self.bundle.device)

    def _numbers(
        self,
        histories: Sequence[Sequence[int]],
        times: Times | None,
        features: Sequence[Described] | None,
    ) -> list[HistoryFeatures] | None:
        """The numbers of all histories; None of a model that reads no features, once it is known that none are named."""
        if features is not None and len(features) != len(histories):
            raise DataError(f"features: {len(features)} were given for {len(histories)} histories")
        space, found = self.bundle.space, []
        if features is None and not space.columns:
            return None
        for user, history in enumerate(histories):
            said = Features() if features is None else features[user]
            moments = None if times is None else times[user]
            found.append(said if isinstance(said, HistoryFeatures) else numbers_of(space, said, len(history), moments))
        return found if space.columns else None

    def _allowed(self, histories: Sequence[Sequence[int]], filters: Sequence[Filters]) -> Allowed | None:
        """Filters of users whose shared part is one."""
        shared = self._shared(filters[0])
        denied = self._denied(histories, filters)
        if shared is None and denied is None:
            return None
        before_I1 = None if shared is None else self._before(filters[0], shared)
        return self.bundle.leaves.allow(before_I1, denied)

    def _denied(self, histories: Sequence[Sequence[int]], filters: Sequence[Filters]) -> Tensor | None:
        default = self.bundle.settings.evaluate.exclude_seen
        each = [
            [
                *(() if chosen.many_denied() else chosen.deny),
                *((*history, *chosen.seen) if _excludes(chosen, default) else ()),
            ]
            for chosen, history in zip(filters, histories, strict=True)
        ]
        longest = max(map(len, each))
        if not longest:
            return None
        return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in each], device=self.bundle.device)

    def _shared(self, chosen: Filters) -> tuple | None:
        """`Filters.shared`, but that a mask answers also what asks for every item, where some are withdrawn."""
        key = chosen.shared()
        return ALL if key is None and len(self._withdrawn) else key

    def _before(self, chosen: Filters, key: tuple) -> Tensor:
        if key not in self._masks:
            while len(self._masks) >= KEPT_MASKS:
                self._masks.pop(next(iter(self._masks)), None)
            mask_I = chosen.mask(self.bundle.items)
            mask_I[self._withdrawn] = False
            self._masks[key] = self.bundle.leaves.before(torch.from_numpy(mask_I).to(self.bundle.device))
        return self._masks[key]

    def _popular(self, histories: Sequence[Sequence[int]], filters: Sequence[Filters], k: int) -> tuple[Tensor, Tensor]:
        items = self.bundle.items
        allowed = self._allowed(histories, filters)
        if allowed is None:
            best = torch.from_numpy(np.array(items.by_popularity_I[:k])).long()
            found_BW = best.expand(len(histories), -1)
        else:
            found_BW = torch.full((len(histories), k), -1)
            for first in range(0, len(items), POPULAR_CHUNK):  # as far down as the users' places ask
                open_B = (found_BW < 0).any(1).nonzero().squeeze(1)
                if not len(open_B):
                    break
                order_R = torch.from_numpy(np.array(items.by_popularity_I[first : first + POPULAR_CHUNK])).long()
                is_open_BR = allowed.of(open_B.to(self.bundle.device)).at(order_R.to(self.bundle.device))
                for user, is_open_R in zip(open_B.tolist(), is_open_BR.expand(len(open_B), -1).cpu(), strict=True):
                    filled = int((found_BW[user] >= 0).sum())
                    more = order_R[is_open_R][: k - filled]
                    found_BW[user, filled : filled + len(more)] = more
        share_BW = (items.popularity_I[found_BW.clamp(min=0).numpy()] + 1) / self._events
        scores_BW = torch.from_numpy(np.log(share_BW)).float().masked_fill(found_BW < 0, -torch.inf)
        return found_BW, scores_BW

    @cached_property
    def _events(self) -> int:
        """Of all items, one added to each: what popularities are shares of."""
        return int(self.bundle.items.popularity_I.sum()) + self.bundle.n_items

    def _beam(self, k: int, beam: int | None) -> int:
        beam = self.bundle.settings.evaluate.beam if beam is None else beam
        if not 1 <= k <= beam:
            raise ConfigError(f"k {k}: must be at least 1 and at most the beam, {beam}")
        return beam

    def _check(
        self,
        histories: Sequence[Sequence[int]],
        filters: Sequence[Filters],
        times: Times | None,
        *,
        timed: bool = True,
    ) -> None:
        n_items = self.bundle.n_items
        if len(filters) != len(histories):
            raise ConfigError(f"filters: {len(filters)} were given for {len(histories)} histories")
        lists = [(f"user {user}", history) for user, history in enumerate(histories)]
        for chosen in {id(chosen): chosen for chosen in filters}.values():
            lists += [("filters", chosen.deny), ("filters", chosen.allow or ()), ("filters", chosen.seen)]
        for where, items in lists:
            if len(items) and not 0 <= min(items) <= max(items) < n_items:
                worst = min(items) if min(items) < 0 else max(items)
                raise DataError(f"{where}: item {worst} is outside the catalogue, 0 … {n_items - 1}")
        if timed and times is None and self.bundle.reads_times and any(map(len, histories)):
            raise ConfigError("times: this model reads times; give those of each event and of the request")
        for user, (history, moments) in enumerate(zip(histories, times or (), strict=False)):
            if moments is None and self.bundle.reads_times:
                raise ConfigError(f"times: this model reads times; user {user} has none")
            if moments is not None and len(moments) != len(history) + 1:
                raise DataError(f"user {user}: {len(moments)} times for {len(history)} events and the request")


def _excludes(chosen: Filters, default: bool | None) -> bool:
    return bool(default if chosen.exclude_seen is None else chosen.exclude_seen)


def _some(users: Sequence[int], each: Sequence[T] | None) -> list[T] | None:
    return None if each is None else [each[user] for user in users]
