"""`python -m benchmarks.speed.neighbour_lists`: how much of the exact table of neighbours the one from lists of vectors holds.

Shape suffixes: I items, M neighbours kept.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.transitions import count_transitions, transition_matrix
from intrr_rec.models.neighbours import nearest
from intrr_rec.vectors.table import read_vectors

NEAREST = (10, 100)


def shared(exact_IM: torch.Tensor, found_IM: torch.Tensor, places: int) -> float:
    """Share of the first `places` neighbours of the exact table that are among those of the other."""
    both = total = 0
    for exact, found in zip(exact_IM[:, :places].tolist(), found_IM[:, :places].tolist(), strict=True):
        wanted = {item for item in exact if item >= 0}
        both, total = both + len(wanted & set(found)), total + len(wanted)
    return both / max(1, total)


def main() -> None:
    """Make both tables of one dataset, whatever its size, and print what they share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    given = parser.parse_args()
    dataset, config = Dataset.open(given.dataset), NeighboursConfig(whiten=True)
    counts = count_transitions(dataset.items_E, dataset.offsets, dataset.held_out("train"), dataset.n_items, config)
    parts = transition_matrix(*counts, dataset.n_items, config.damping)
    transitions = nearest.Transitions(*map(torch.from_numpy, parts))
    vectors_IV = torch.from_numpy(read_vectors(given.vectors, dataset)).float()
    unit_IV = nearest.unit_vectors(vectors_IV, whiten=config.whiten)
    tables = []
    for name, limit in (("exact", dataset.n_items), ("lists", 0)):
        nearest.EXACT = limit
        started = time.perf_counter()
        tables.append(nearest.nearest(transitions, unit_IV, config, 0, dataset.n_items)[0])
        print(f"{name}: {dataset.n_items:,} items, {time.perf_counter() - started:.1f} s")
    for places in NEAREST:
        print(f"of the {places} nearest: {shared(tables[0], tables[1], places):.1%}")


if __name__ == "__main__":
    main()
