"""Item-based nearest neighbours: the baseline that needs no training (`models/neighbours.py`).

Shape suffixes: B users, W places, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intrr_rec.config import EvaluateConfig, ItemKnnConfig, ModelConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.models.base import Catalogue, Recommender
from intrr_rec.models.neighbours import NeighbourTable


class ItemKnn(Recommender):
    """Ranks the neighbours of the last items of a history, then the most popular items.

    Args:
        table: of the catalogue.
    """

    Config = ItemKnnConfig
    decoded_by = "own"

    @classmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> ItemKnn:
        """A model whose table is still empty: it knows no neighbours, and every item is as popular as the next."""
        return cls(NeighbourTable.empty(config.neighbours, len(catalogue.codes_IL)))

    def __init__(self, table: NeighbourTable) -> None:
        super().__init__()
        self.uid = None
        self.table = table

    def rank(self, batch: Batch, settings: EvaluateConfig, allowed_BI: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The best `settings.beam` items; a popular item stands below every neighbour."""
        return rank_neighbours(self.table, batch, settings.beam, allowed_BI)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """There is nothing to learn."""
        raise NotImplementedError("item_knn has no loss")


def rank_neighbours(
    table: NeighbourTable, batch: Batch, places: int, allowed_BI: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The neighbours of each history with the highest scores, then the most popular items.

    Args:
        table: of the catalogue.
        batch: histories.
        places: W.
        allowed_BI: what a user may get; None is everything.

    Returns:
        `item_BW` (-1 where fewer items are allowed than there are places) and `score_BW`.
    """
    n_items = len(table.item_IM)
    places = min(places, n_items)
    found_BW, score_BW = table.around(batch).best(table.weights(), places, allowed_BI)
    missing = places - found_BW.shape[1]
    found_BW = torch.nn.functional.pad(found_BW, (0, missing), value=-1)
    score_BW = torch.nn.functional.pad(score_BW, (0, missing), value=-torch.inf)
    short = (found_BW < 0).any(1).nonzero().squeeze(1)
    if not len(short):
        return found_BW, score_BW
    open_BI = torch.ones(len(short), n_items + 1, dtype=torch.bool, device=found_BW.device)
    if allowed_BI is not None:
        open_BI[:, :-1] = allowed_BI[short]
    open_BI.scatter_(1, found_BW[short].masked_fill(found_BW[short] < 0, n_items), False)
    popular_I = table.popular_I.long()
    # Below 0 and below the neighbours, in the order of popularity.
    lowest_B1 = score_BW[short].masked_fill(found_BW[short] < 0, 0).amin(dim=1, keepdim=True).clamp(max=0)
    order_I = torch.arange(1, n_items + 1, device=found_BW.device) / n_items
    fill_BI = (lowest_B1 - order_I).masked_fill(~open_BI[:, popular_I], -torch.inf)
    fill_score_BW, place_BW = fill_BI.topk(places, dim=1)
    all_score_BW = torch.cat([score_BW[short], fill_score_BW], dim=1)
    all_item_BW = torch.cat([found_BW[short], popular_I[place_BW]], dim=1)
    score_BW[short], place_BW = all_score_BW.topk(places, dim=1)
    found_BW[short] = all_item_BW.gather(1, place_BW).masked_fill(score_BW[short] == -torch.inf, -1)
    return found_BW, score_BW
