"""IntRR's ranking of a catalogue for given user states: the beam, and the dense head over it where the recipe asks for one.

It needs no tables, so evaluation and a bundle that left them behind rank by the same lines.

Shape suffixes: B users, W places, I items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.config import EvaluateConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.filters import Allowed
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.ran_decoder import Steps
from intrr_rec.semantic_ids.trie import PrefixTrie


@dataclass(frozen=True)
class Ranker:
    """What ranks the catalogue.

    Attributes:
        ran: with its codebooks.
        trie: of the catalogue.
        dense: the dense head of a model that has one.
        rows: item representations, needed by the dense head.
    """

    ran: Steps
    trie: PrefixTrie
    dense: DenseHead | None
    rows: Rows | None

    def rank(
        self, state_BD: Tensor, batch: Batch, settings: EvaluateConfig, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best `settings.beam` items of each user state, best first.

        Args:
            state_BD: h_u at the scored slots of `batch`.
            batch: histories.
            settings: beam width, normalisation, what ranks.
            allowed: what the users may get; None is everything.

        Returns:
            `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
        """
        beam = settings.beam
        items_BW, log_p_BW = beam_search(self.ran, self.trie, state_BD, beam, settings.normalize, allowed)
        if settings.rank_by == "path":
            return items_BW, log_p_BW
        assert self.dense is not None and self.rows is not None
        if settings.pool == "beam_and_dense":
            items_BW, log_p_BW = self._widen(state_BD, items_BW, log_p_BW, batch, allowed)
        candidate_BWD = self.rows.take(items_BW.clamp(min=0))
        dense_BW = self.dense.score(state_BD, candidate_BWD, items_BW, batch)
        score_BW = (dense_BW + settings.path_weight * log_p_BW).masked_fill(log_p_BW == -torch.inf, -torch.inf)
        scores_BW, order_BW = score_BW.sort(dim=-1, descending=True)
        scores_BW, order_BW = scores_BW[:, :beam], order_BW[:, :beam]
        return items_BW.gather(1, order_BW).masked_fill(scores_BW == -torch.inf, -1), scores_BW

    def _widen(
        self, state_BD: Tensor, items_BW: Tensor, log_p_BW: Tensor, batch: Batch, allowed: Allowed | None
    ) -> tuple[Tensor, Tensor]:
        """The beam, then as many items by dense score alone.

        An item the beam let go counts as likely as the beam's last; one that is in the beam already, or may not be had, has
        score -inf.
        """
        assert self.dense is not None and self.rows is not None
        allowed_BI = None if allowed is None else allowed.items(len(state_BD))
        found_BW, found_score_BW = self.dense.best(state_BD, self.rows, items_BW.shape[1], batch, allowed_BI)
        unwanted_BW = (found_BW[:, :, None] == items_BW[:, None]).any(-1) | (found_score_BW == -torch.inf)
        last_B1 = log_p_BW.masked_fill(log_p_BW == -torch.inf, torch.inf).amin(dim=1, keepdim=True)
        floor_BW = last_B1.expand_as(found_BW).masked_fill(unwanted_BW, -torch.inf)
        return torch.cat([items_BW, found_BW], dim=1), torch.cat([log_p_BW, floor_BW], dim=1)
