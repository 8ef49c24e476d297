"""What narrow rows cost: Recall and NDCG of a bundle beside those of the model it was made from, on the same test users."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.features import FeatureReader
from intrr_rec.distributed.world import join_world
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.evaluation.metrics import RECALL_AT, as_means, metrics_by_user, target_rank
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.runs.open_run import open_run
from intrr_rec.serving.bundle.bundle import Bundle, this_device
from intrr_rec.serving.recommender import Recommender

SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def report_bundle(run: Path, bundle: Path, out: Path) -> dict[str, dict[str, float]]:
    """Evaluate a run's best checkpoint and its bundle on the test split; print both, and write them to `out` (JSON).

    Raises:
        ArtefactError, ConfigError: as `intrr evaluate`.
    """
    with join_world() as world:
        trained = open_run(run, world)
        inputs = trained.inputs
        evaluator = Evaluator(trained.model, inputs, world)
        evaluator.use(trained.state.get("ranking"))
        model = evaluator.evaluate("test")
        is_main = world.is_main
    if not is_main:
        return {}
    opened = Bundle.load(bundle, this_device())
    measured = bundle_metrics(opened, inputs.dataset, inputs.recipe.evaluate.batch_users)
    figures = {"model": model, "bundle": measured}
    write_json(out, {"run": run.name, "rows": opened.settings.rows, **figures})
    table = Table("", *SHOWN, title=f"{bundle}: rows in {opened.settings.rows}, test split")
    for name, metrics in figures.items():
        table.add_row(name, *(f"{metrics[key]:.4f}" for key in SHOWN))
    changes = (f"{measured[key] / model[key] - 1:+.2%}" if model[key] else "-" for key in SHOWN)
    table.add_row("change", *changes)
    console(stderr=True, markup=False).print(table)
    return figures


def bundle_metrics(bundle: Bundle, dataset: Dataset, batch_users: int) -> dict[str, float]:
    """Recall@K and NDCG@K of the test targets, of a dataset whose items are the bundle's."""
    recommender, beam = Recommender(bundle), bundle.settings.evaluate.beam
    places = min(beam, max(RECALL_AT))
    reader = FeatureReader(bundle.space, dataset.features) if bundle.space.columns and dataset.features else None
    parts = []
    users_T, targets_T = dataset.targets("test")
    for first in range(0, len(users_T), batch_users):
        users, targets = users_T[first : first + batch_users], targets_T[first : first + batch_users]
        spans = [slice(int(a), int(b) + 1) for a, b in zip(dataset.offsets[users], targets, strict=True)]
        histories = [dataset.items_E[span][:-1].tolist() for span in spans]
        times = None if dataset.timestamps_E is None else [dataset.timestamps_E[span].tolist() for span in spans]
        features = None
        if reader is not None:
            features = [reader.history(int(user), s.start, s.stop - 1) for user, s in zip(users, spans, strict=True)]
        found_BW, _ = recommender.rank(histories, places, beam, times=times, features=features)
        parts.append(target_rank(found_BW, torch.from_numpy(dataset.items_E[targets])))
    rank_B = torch.cat(parts)
    return as_means(metrics_by_user(rank_B).sum(0), len(rank_B))
