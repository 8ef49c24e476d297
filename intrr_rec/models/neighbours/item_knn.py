"""Item-based nearest neighbours: the baseline that needs no training (`models/neighbours/terms.py`).

Shape suffixes: B users, W places, I items.
"""

from __future__ import annotations

from torch import Tensor

from intrr_rec.config import EvaluateConfig, ItemKnnConfig, ModelConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.models.base import Catalogue, Recommender
from intrr_rec.models.neighbours.terms import NeighbourTable, Permitted, rank_neighbours


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

    def rank(self, batch: Batch, settings: EvaluateConfig, allowed: Permitted | None = None) -> tuple[Tensor, Tensor]:
        """The best `settings.beam` items; a popular item stands below every neighbour."""
        return rank_neighbours(self.table, batch, settings.beam, allowed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """There is nothing to learn."""
        raise NotImplementedError("item_knn has no loss")
