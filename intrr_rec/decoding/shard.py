"""The item embeddings of a large catalogue, each rank holding its share: looked up, and searched, by all ranks together.

A rank scores its share of the items for the users of all ranks and keeps the best of each; a merge gives every rank the best of its
own users. Nothing has a place for each user and item, and no rank holds more than I / R embeddings.

Shape suffixes: B users of this rank, A users of all ranks, U items looked up, V those of all ranks, W places, R ranks, N slots of
a history, M items denied to a user, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.filters import Allowed
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.semantic_ids.quantizers.exact import Peers, padded_gather


@dataclass(frozen=True)
class Shard:
    """This rank's share of a catalogue's item embeddings; every rank calls its methods, also with no user or item to ask for.

    Attributes:
        rows: of items `first`, `first` + 1, …
        first: dense id of the first of them.
        peers: the ranks that hold the other shares.
    """

    rows: Rows
    first: int
    peers: Peers

    def take(self, items_U: Tensor) -> Tensor:
        """Embeddings of any shape of dense ids, `[…]` → `[…, D]`: each is given by the rank that holds it."""
        flat_U = items_U.flatten()
        item_V, first, end = self._gathered(flat_U)
        place_V = item_V - self.first
        is_own_V = (place_V >= 0) & (place_V < len(self.rows))
        row_VD = self.rows.take(place_V.clamp(0, len(self.rows) - 1)) * is_own_V[:, None]
        return self.peers.sum(row_VD)[first:end].view(*items_U.shape, row_VD.shape[1])

    def best(
        self, dense: DenseHead, state_BD: Tensor, places: int, batch: Batch, allowed: Allowed | None
    ) -> tuple[Tensor, Tensor]:
        """As `DenseHead.best`, of all ranks' items for this rank's users.

        Args:
            allowed: whose shared part (`before_I1`) is the same on every rank.
        """
        state_AD, first, end = self._gathered(state_BD)
        seen_BN, is_seen_BN = batch.seen_items()
        seen_AN, _, _ = self._gathered(self._as_wide(seen_BN.masked_fill(~is_seen_BN, -1)))
        own = None
        if allowed is not None:
            denied_BM = allowed.denied_item_BM
            denied_BM = state_BD.new_empty(len(state_BD), 0, dtype=torch.int64) if denied_BM is None else denied_BM
            denied_AM, _, _ = self._gathered(self._as_wide(denied_BM))
            own = replace(allowed, denied_BM=None, denied_item_BM=denied_AM).between
        item_AW, score_AW = dense.best_of(state_AD, self.rows, places, seen_AN, seen_AN >= 0, own, self.first)
        missing = places - score_AW.shape[1]  # the last share may have fewer items than there are places
        item_RAW = self.peers.gather_rows(F.pad(item_AW, (0, missing), value=-1))
        score_RAW = self.peers.gather_rows(F.pad(score_AW, (0, missing), value=-torch.inf))
        item_BW, score_BW = (
            part.view(self.peers.size, -1, places)[:, first:end].transpose(0, 1).flatten(1)
            for part in (item_RAW, score_RAW)
        )
        # The shares are in the order of dense ids, so a stable sort puts equal scores in it too.
        score_BW, order_BW = score_BW.sort(dim=1, descending=True, stable=True)
        return item_BW.gather(1, order_BW)[:, :places], score_BW[:, :places]

    def _gathered(self, rows_B: Tensor) -> tuple[Tensor, int, int]:
        """Rows of all ranks, rank after rank, and where this rank's begin and end."""
        counts_R = self.peers.gather_rows(torch.tensor([len(rows_B)])).tolist()
        first = sum(counts_R[: self.peers.rank])
        return padded_gather(rows_B, self.peers), first, first + len(rows_B)

    def _as_wide(self, items_BN: Tensor) -> Tensor:
        """Items padded with -1 to the width of the rank with most columns."""
        widest = int(self.peers.gather_rows(torch.tensor([items_BN.shape[1]])).max())
        return F.pad(items_BN, (0, widest - items_BN.shape[1]), value=-1)
