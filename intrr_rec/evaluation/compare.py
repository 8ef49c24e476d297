"""Two runs, or two groups of runs that differ in their seed, side by side: which ranks better, and may it be chance?

The bootstrap is over users, with the models as they are; the spread over seeds is shown beside it and is not part of it.

Shape suffixes: B users, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.table import Table

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.evaluation.bootstrap import RESAMPLES, paired_bootstrap
from intrr_rec.evaluation.metrics import NAMES, metrics_by_user
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import shell_word
from intrr_rec.runs.records import RunResults, read_run, require_same_dataset, summarize

COMPARED = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_COLUMNS = [NAMES.index(name) for name in COMPARED]


def compare_runs(runs: Sequence[Path], against: Sequence[Path], seed: int, out: Path | None) -> dict[str, Any]:
    """Print the comparison of `runs` (A) with `against` (B) on the test split, write it to `out` (JSON), return it.

    Without `against`, `runs` are two: the first is A, the second B.

    Raises:
        ConfigError: another number of runs without `against`, or a run named twice on one side.
        ArtefactError: a run that was not evaluated, or runs on different datasets.
    """
    if not against:
        if len(runs) != 2:
            raise ConfigError(
                f"compare: {len(runs)} --run without --against; give two --run, or seeds of A as --run and of B as --against"
            )
        runs, against = runs[:1], runs[1:]
    sides = {"a": [read_run(path) for path in runs], "b": [read_run(path) for path in against]}
    require_same_dataset([*sides["a"], *sides["b"]])
    spreads = {side: summarize(found) for side, found in sides.items()}
    users, *by_side = _by_user([*sides["a"], *sides["b"]], len(sides["a"]))
    found = paired_bootstrap(by_side[0] - by_side[1], seed=seed)
    comparison = {
        "runs": {side: [str(run.path) for run in given] for side, given in sides.items()},
        "seeds": {side: [run.results.seed for run in given] for side, given in sides.items()},
        "dataset": sides["a"][0].dataset_hash,
        "users": len(users),
        "resamples": RESAMPLES,
        "bootstrap_seed": seed,
        "metrics": {
            name: {side: vars(spreads[side][name]) for side in sides} | vars(interval)
            for name, interval in zip(COMPARED, found, strict=True)
        },
    }
    if out:
        write_json(out, comparison)
    table = Table(
        "metric", "A", "B", "A - B", "95 % interval", "p", title=f"{_named(sides['a'])} - {_named(sides['b'])}"
    )
    for name, interval in zip(COMPARED, found, strict=True):
        shown = f"{interval.difference:+.4f}", f"[{interval.low:+.4f}, {interval.high:+.4f}]", f"{interval.p_value:.4f}"
        table.add_row(name, str(spreads["a"][name]), str(spreads["b"][name]), *shown)
    over_seeds = "; ± is the deviation over seeds" if max(map(len, sides.values())) > 1 else ""
    table.caption = f"{len(users):,} users, {RESAMPLES:,} resamples of them{over_seeds}"
    console(markup=False).print(table)
    return comparison


def _by_user(runs: Sequence[RunResults], first: int) -> tuple[pa.Array, NDArray[np.float64], NDArray[np.float64]]:
    """Users, and their metrics as means over the `first` runs and over the rest, `[B, M]` each."""
    users = None
    sums_BM: list[NDArray[np.float64]] = []
    for place, run in enumerate(runs):
        found, rank_B = read_ranks(run.path, "test")
        again = f"run `intrr evaluate --run {shell_word(run.path)}`"
        if users is None:
            users = found
        elif not users.equals(found):
            raise ArtefactError(f"{run.path}: its ranks are of other users than those of {runs[0].path}; {again}")
        figures_BM = metrics_by_user(torch.from_numpy(rank_B)).numpy()[:, _COLUMNS]
        recorded = [run.results.test[name] for name in COMPARED]
        if not np.allclose(figures_BM.mean(0), recorded, rtol=0, atol=1e-9):
            raise ArtefactError(f"{run.path}: its ranks and its results.json are of two evaluations; {again}")
        if place in (0, first):
            sums_BM.append(figures_BM)
        else:
            sums_BM[-1] = sums_BM[-1] + figures_BM
    assert users is not None
    return users, sums_BM[0] / first, sums_BM[1] / (len(runs) - first)


def _named(runs: Sequence[RunResults]) -> str:
    name = runs[0].results.name or runs[0].path.name
    return name if len(runs) == 1 else f"{name} and {len(runs) - 1} more"
