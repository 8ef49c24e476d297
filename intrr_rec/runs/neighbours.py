"""The neighbour table of a catalogue: each rank compares its share of the items, then all are gathered.

Shape suffixes: I items, V width of vectors.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.data.popularity import falling_order
from intrr_rec.data.transitions import count_transitions, transition_matrix
from intrr_rec.distributed.world import World
from intrr_rec.models.base import Recommender
from intrr_rec.models.neighbours.item_knn import ItemKnn
from intrr_rec.models.neighbours.nearest import Transitions, nearest, unit_vectors
from intrr_rec.models.neighbours.terms import NeighbourTable
from intrr_rec.runs.inputs import Inputs

log = logging.getLogger(__name__)


def untrained(inputs: Inputs, world: World) -> tuple[Recommender, dict[str, Any]]:
    """A model of a kind that learns nothing, made from the data; and in place of the state of a training loop, how long it took."""
    asked = time.monotonic()
    model = inputs.model(world.device)
    assert isinstance(model, ItemKnn)
    model.table = build_neighbours(inputs.dataset, inputs.neighbour_IV, inputs.recipe.model.neighbours, world)
    return model, {"epoch": 0, "best_epoch": 0, "seconds": time.monotonic() - asked}


def build_neighbours(
    dataset: Dataset,
    vectors_IV: NDArray[np.floating[Any]] | None,
    config: NeighboursConfig,
    world: World,
    held_out_U: IntArray | None = None,
) -> NeighbourTable:
    """The table of a dataset's training part; every rank calls this and holds the whole table.

    Args:
        dataset: whose transitions are counted.
        vectors_IV: item vectors; None leaves content out.
        config: how neighbours are told.
        world: this rank among its peers.
        held_out_U: events at the end of each history that are not counted; None is those that training may not see.
    """
    asked = time.monotonic()
    n_items, device = dataset.n_items, world.device
    held_out_U = dataset.held_out("train") if held_out_U is None else held_out_U
    pair_N, count_N = count_transitions(
        dataset.items_E, dataset.offsets, held_out_U, n_items, config, dataset.is_target_E
    )
    matrix = transition_matrix(pair_N, count_N, n_items, config.damping)
    transitions = Transitions(*(torch.from_numpy(part) for part in matrix)).to(device)
    unit_IV = None
    if vectors_IV is not None and config.content:
        unit_IV = unit_vectors(torch.from_numpy(vectors_IV).to(device).float(), whiten=config.whiten)
    share = -(-n_items // world.size)
    first = min(world.rank * share, n_items - share)  # the last shares overlap where the items do not divide
    item_RM, term_RMF = nearest(transitions, unit_IV, config, first, first + share)
    starts = [min(rank * share, n_items - share) for rank in range(world.size)]
    row_I = torch.from_numpy(np.concatenate([np.arange(start, start + share) for start in starts])).to(device)
    item_IM = torch.empty(n_items, item_RM.shape[1], dtype=torch.int32, device=device)
    term_IMF = torch.empty(n_items, *term_RMF.shape[1:], dtype=torch.float16, device=device)
    item_IM[row_I], term_IMF[row_I] = world.gather_rows(item_RM), world.gather_rows(term_RMF)
    popular_I = torch.from_numpy(falling_order(dataset.popularity()).astype(np.int32)).to(device)
    if world.is_main:
        log.info("neighbours of %d items: %.1f s", n_items, time.monotonic() - asked)
    return NeighbourTable(config, item_IM, term_IMF, popular_I)
