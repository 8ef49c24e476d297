"""The dense head: cosines of user states and item representations, trained by a sampled softmax. Not the paper's.

A target competes with one set of uniform negatives a step and with the items already in its own history. The latter share
one learned number, the repeat bias: whether people come back to what they had is the data's to say, and a cosine alone
cannot say it, since what resembles the history is just what it ranks first.

Shape suffixes: T token slots, S scored slots, U items, M negatives, C blocks, N slots of a block, B users, W beams,
D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from intrr_rec.config import DenseConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.log_sums import log_sums
from intrr_rec.models.rivals import Rivals

NO_ITEM = -2  # and not the -1 of a place that is left empty
_INVERSE_LENGTHS = WeakTensorKeyDictionary()


def inverse_lengths(rows: Rows) -> Tensor:
    """One over the length of every row, computed once for as long as the table lives; it must not change in place."""
    if rows.values_ID not in _INVERSE_LENGTHS:
        device, first = rows.values_ID.device, 0
        inverse_I = torch.from_numpy(roomy(np.float32, (len(rows),))) if device.type == "cpu" else None
        inverse_I = torch.empty(len(rows), device=device) if inverse_I is None else inverse_I
        for rows_RD in rows.chunks():
            inverse_I[first : first + len(rows_RD)] = 1 / rows_RD.detach().norm(dim=-1).clamp(min=1e-12)
            first += len(rows_RD)
        _INVERSE_LENGTHS[rows.values_ID] = inverse_I
    return _INVERSE_LENGTHS[rows.values_ID]


class DenseHead(nn.Module):
    """Scores of items beside those of their paths.

    Args:
        config: temperature, and whether there is a repeat bias.
        width: D.
    """

    def __init__(self, config: DenseConfig, width: int) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.repeat_bias = nn.Parameter(torch.zeros(())) if config.repeat_bias else None
        self.gain = width**0.5  # as the tables' rows: a logit must be able to move by more than a learning rate a step

    def nll(self, state_TD: Tensor, history_TD: Tensor, items_UD: Tensor, batch: Batch) -> Tensor:
        """-log P(target) of each scored slot among its target, the step's negatives and its own history, `[S]`.

        Args:
            state_TD: state of every slot.
            history_TD: item representation of every slot.
            items_UD: representations of the batch's items.
            batch: with candidates.
        """
        assert batch.candidates is not None
        rivals, blocks_CN = Rivals(batch), batch.layout.owner_CN.shape
        items_UD = F.normalize(items_UD, dim=-1)
        state_TD = F.normalize(state_TD, dim=-1) / self.temperature
        state_SD, history_TD = state_TD[batch.scored_S], F.normalize(history_TD, dim=-1)
        positive_S = (state_SD * F.embedding(batch.candidates.target_S, items_UD)).sum(-1)
        positive_S = positive_S + rivals.is_repeat() * self._bias()
        negative_MD = F.embedding(batch.candidates.negative_M, items_UD)
        negative_1S = log_sums(state_SD[None], negative_MD[None], rivals.negative_pieces(), rivals.negatives())
        state_CND, history_CND = (each_TD.view(*blocks_CN, -1) for each_TD in (state_TD, history_TD))
        own_T = log_sums(state_CND, history_CND, rivals.own_pieces(), rivals.own()).flatten()
        own_S = own_T[batch.scored_S] + self._bias()
        return torch.stack([positive_S, negative_1S.squeeze(0), own_S]).logsumexp(0) - positive_S

    def score(self, state_BD: Tensor, items_BWD: Tensor, items_BW: Tensor, batch: Batch) -> Tensor:
        """Scores `[B, W]` of each scored slot's own W items, given by representation and id."""
        cosine_BW1 = F.normalize(items_BWD, dim=-1) @ F.normalize(state_BD, dim=-1)[..., None]
        seen_BN, is_seen_BN = batch.seen_items()
        # Bisected: a pool beside a long history is many pairs.
        seen_BN = seen_BN.masked_fill(~is_seen_BN, NO_ITEM).sort(-1).values
        place_BW = torch.searchsorted(seen_BN, items_BW.contiguous()).clamp(max=seen_BN.shape[1] - 1)
        repeat_BW = seen_BN.gather(1, place_BW) == items_BW
        return cosine_BW1.squeeze(-1) / self.temperature + repeat_BW * self._bias()

    def best(
        self,
        state_BD: Tensor,
        rows: Rows,
        places: int,
        batch: Batch,
        allowed: Callable[[int, int], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The `places` items of the whole catalogue with the best scores, `items_BW` and `scores_BW`, best first.

        The catalogue is scored a chunk of rows at a time; nothing has a place for each user and item.

        Args:
            state_BD: at the scored slots.
            rows: item representations.
            places: W.
            batch: histories.
            allowed: which of the items from a first one to an end each user may get, `[B, R]` or `[1, R]`; None is everything.
                Anything else has score -inf.
        """
        return self.best_of(state_BD, rows, places, *batch.seen_items(), allowed)

    def best_of(
        self,
        state_BD: Tensor,
        rows: Rows,
        places: int,
        seen_BN: Tensor,
        is_seen_BN: Tensor,
        allowed: Callable[[int, int], Tensor] | None = None,
        first_item: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`best` among the rows of items `first_item`, `first_item` + 1, …; None: they are the whole catalogue.

        Args:
            seen_BN: items of histories; of a share of the catalogue, other items than its own are passed over.
            is_seen_BN: which of them are the user's.
        """
        unit_BD = F.normalize(state_BD, dim=-1) / self.temperature
        first = begun = first_item or 0
        if first_item is None:
            # Slots of others' histories repeat an item of the own one, so that what is written to a place twice is the same.
            some_B1 = seen_BN.gather(1, is_seen_BN.int().argmax(1, keepdim=True))
            seen_BN = torch.where(is_seen_BN, seen_BN, some_B1)
        else:
            seen_BN = seen_BN.masked_fill(~is_seen_BN, -1)
        inverse_I, places = inverse_lengths(rows), min(places, len(rows))
        best_BW: Tensor | None = None
        item_BW = seen_BN.new_empty(len(state_BD), 0)
        for rows_RD in rows.chunks():
            end = first + len(rows_RD)
            score_BR = (unit_BD @ rows_RD.T).mul_(inverse_I[first - begun : end - begun])
            if first_item is None and len(rows_RD) == len(rows):
                score_BR.scatter_(1, seen_BN, score_BR.gather(1, seen_BN) + self._bias())
            else:
                user_H, slot_H = ((seen_BN >= first) & (seen_BN < end)).nonzero(as_tuple=True)
                place_H = seen_BN[user_H, slot_H] - first
                score_BR[user_H, place_H] = score_BR[user_H, place_H] + self._bias()
            if allowed is not None:
                score_BR.masked_fill_(~allowed(first, end), -torch.inf)
            found_BW, place_BW = score_BR.topk(min(places, end - first), dim=-1)
            if best_BW is not None:
                found_BW = torch.cat([best_BW, found_BW], dim=1)
            item_BW = torch.cat([item_BW, place_BW + first], dim=1)
            if found_BW.shape[1] > places:
                found_BW, order_BW = found_BW.topk(places, dim=-1)
                item_BW = item_BW.gather(1, order_BW)
            best_BW, first = found_BW, end
        assert best_BW is not None
        if len(rows_RD) < len(rows):  # the last chunk may have filled the last places without a sort
            best_BW, order_BW = best_BW.sort(dim=-1, descending=True)
            item_BW = item_BW.gather(1, order_BW)
        return item_BW, best_BW

    def _bias(self) -> Tensor | float:
        return 0.0 if self.repeat_bias is None else self.repeat_bias * self.gain
