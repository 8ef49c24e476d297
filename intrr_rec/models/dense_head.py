"""The dense head: cosines of user states and item representations, trained by a sampled softmax. Not the paper's.

A target competes with one set of uniform negatives a step and with the items already in its own history. The latter share
one learned number, the repeat bias: whether people come back to what they had is the data's to say, and a cosine alone
cannot say it, since what resembles the history is just what it ranks first.

Shape suffixes: T token slots, S scored slots, U items, M negatives, C blocks, N slots of a block, B users, W beams, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from intrr_rec.config import DenseConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.models.embeddings.item_embeddings import Rows

_INVERSE_LENGTHS = WeakTensorKeyDictionary()


def inverse_lengths(rows: Rows) -> Tensor:
    """One over the length of every row, computed once for as long as the table lives; it must not change in place."""
    if rows.values_ID not in _INVERSE_LENGTHS:
        lengths = [rows_D.detach().norm(dim=-1) for rows_D in rows.chunks()]
        _INVERSE_LENGTHS[rows.values_ID] = 1 / torch.cat(lengths).clamp(min=1e-12)
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
        target_S, negative_M = batch.candidates.target_S, batch.candidates.negative_M
        state_TD, items_UD = F.normalize(state_TD, dim=-1) / self.temperature, F.normalize(items_UD, dim=-1)
        state_SD = state_TD[batch.scored_S]
        positive_S1 = (state_SD * F.embedding(target_S, items_UD)).sum(-1, keepdim=True)
        negative_SM = state_SD @ F.embedding(negative_M, items_UD).T
        blocks = (*batch.layout.owner_CN.shape, -1)
        own_CNN = state_TD.view(blocks) @ F.normalize(history_TD, dim=-1).view(blocks).transpose(1, 2)
        own_SN = own_CNN.flatten(0, 1)[batch.scored_S] + self._bias()
        seen_SN, is_seen_SN = batch.seen_items()
        not_target_SN = is_seen_SN & (seen_SN != batch.target_S[:, None])
        places_SN = batch.slot_T.view(-1, own_CNN.shape[-1])[batch.scored_S // own_CNN.shape[-1]]
        in_history_SU = torch.zeros(len(target_S), len(items_UD) + 1, dtype=torch.bool, device=places_SN.device)
        in_history_SU.scatter_(1, places_SN.masked_fill(~is_seen_SN, len(items_UD)), True)
        # A negative of the own history would be the same rival twice, once without the repeat bias.
        not_a_rival_SM = in_history_SU[:, negative_M] | (negative_M == target_S[:, None])
        rivals_S = [
            negative_SM.masked_fill(not_a_rival_SM, -torch.inf),
            own_SN.masked_fill(~not_target_SN, -torch.inf),
        ]
        is_repeat_S1 = (is_seen_SN & (seen_SN == batch.target_S[:, None])).any(1, keepdim=True)
        positive_S1 = positive_S1 + is_repeat_S1 * self._bias()
        return torch.cat([positive_S1, *rivals_S], dim=1).logsumexp(dim=1) - positive_S1.squeeze(1)

    def score(self, state_BD: Tensor, items_BWD: Tensor, items_BW: Tensor, batch: Batch) -> Tensor:
        """Scores `[B, W]` of each scored slot's own W items, given by representation and id."""
        cosine_BW1 = F.normalize(items_BWD, dim=-1) @ F.normalize(state_BD, dim=-1)[..., None]
        seen_BN, is_seen_BN = batch.seen_items()
        repeat_BW = ((items_BW[:, :, None] == seen_BN[:, None]) & is_seen_BN[:, None]).any(-1)
        return cosine_BW1.squeeze(-1) / self.temperature + repeat_BW * self._bias()

    def best(
        self, state_BD: Tensor, rows: Rows, places: int, batch: Batch, allowed_BI: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The `places` items of the whole catalogue with the best scores, `items_BW` and `scores_BW`, best first.

        Args:
            state_BD: at the scored slots.
            rows: item representations.
            places: W.
            batch: histories.
            allowed_BI: what a user may get; None is everything. Anything else has score -inf.
        """
        unit_BD = F.normalize(state_BD, dim=-1) / self.temperature
        parts = [unit_BD @ rows_D.T for rows_D in rows.chunks()]
        score_BI = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).mul_(inverse_lengths(rows))
        seen_BN, is_seen_BN = batch.seen_items()
        # Slots of others' histories repeat an item of the own one, so that what is written to a place twice is the same.
        some_B1 = seen_BN.gather(1, is_seen_BN.int().argmax(1, keepdim=True))
        seen_BN = torch.where(is_seen_BN, seen_BN, some_B1)
        score_BI.scatter_(1, seen_BN, score_BI.gather(1, seen_BN) + self._bias())
        if allowed_BI is not None:
            score_BI.masked_fill_(~allowed_BI, -torch.inf)
        score_BW, item_BW = score_BI.topk(min(places, len(rows)), dim=-1)
        return item_BW, score_BW

    def _bias(self) -> Tensor | float:
        return 0.0 if self.repeat_bias is None else self.repeat_bias * self.gain
