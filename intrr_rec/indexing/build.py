"""Stage 1 from end to end: dataset + item vectors → semantic ids artefact (`intrr index`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor

from intrr_rec.artefact import Manifest
from intrr_rec.config import IndexConfig
from intrr_rec.data.prepared import Dataset
from intrr_rec.data.vectors import read_vectors, vectors_hash
from intrr_rec.indexing.categories import read_categories
from intrr_rec.indexing.collisions import ORDER_RULE, dedup_digits
from intrr_rec.indexing.gate import require_quality
from intrr_rec.indexing.methods import make_quantizer
from intrr_rec.indexing.quality import assess
from intrr_rec.indexing.quantizer import OnProgress, Quantizer, TensorSource, VectorSource
from intrr_rec.indexing.semantic_ids import SemanticIds
from intrr_rec.indexing.summary import show_quality

log = logging.getLogger(__name__)


def build_semantic_ids(dataset_dir: Path, vectors_path: Path, out: Path, config: IndexConfig) -> Manifest:
    """Fit the indexer on the items' vectors, tell colliding items apart, publish the artefact, show its quality.

    The same inputs, settings, machine and number of threads give the same bytes.

    Raises:
        DataError, ArtefactError: unusable dataset or vectors.
        ConfigError: more codes than distinct points, more colliding items than de-duplication digits, or Semantic IDs below
            a floor of `index.gate`.
    """
    dataset = Dataset.open(dataset_dir)
    source = TensorSource(torch.from_numpy(read_vectors(vectors_path, dataset)))
    quantizer = make_quantizer(config, source.width)
    with _progress() as on_progress:
        quantizer.fit(source, on_progress)
    codes_IL = assign_all(quantizer, source)
    quality, _ = assess(quantizer, source, codes_IL, read_categories(dataset, config.category_column), config.seed)
    require_quality(quality, config.gate)
    digits_I = dedup_digits(codes_IL, config.dedup_codes)
    manifest = SemanticIds.write(
        out,
        codes_IL=torch.cat([codes_IL, digits_I.unsqueeze(1)], 1),
        codes_per_level=(*config.sizes, config.dedup_codes),
        codebooks=quantizer.codebooks,
        quantizer=quantizer.state(),
        item_ids=dataset.item_ids(),
        quality=quality,
        config={**config.model_dump(mode="json"), "order_rule": ORDER_RULE, "width": source.width},
        parents={"dataset": dataset.manifest.content_hash, "vectors": vectors_hash(vectors_path)},
    )
    show_quality(quality, out)
    return manifest


def assign_all(quantizer: Quantizer, source: VectorSource) -> Tensor:
    """int64 `codes_IL` of all items of a source that holds them all, in dense item order."""
    codes_IL = torch.empty(source.n_items, len(quantizer.sizes), dtype=torch.int64)
    for ids_P, x_PD in source.blocks():
        codes_IL[ids_P] = quantizer.assign(x_PD)[0]
    return codes_IL


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar for each thing that runs on a terminal; elsewhere a log line at its first step and at every tenth of it."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console) as bar:
            tasks: dict[str, TaskID] = {}

            def show(what: str, step: int, steps: int, merit: float) -> None:
                if what not in tasks:
                    _finish(bar)  # one that converged early is done
                    tasks[what] = bar.add_task(what, total=steps)
                bar.update(tasks[what], completed=step)

            yield show
            _finish(bar)
        return

    def tell(what: str, step: int, steps: int, merit: float) -> None:
        if step == 1 or step * 10 // steps > (step - 1) * 10 // steps:
            log.info("%s: step %d of at most %d, %.4g", what, step, steps, merit)

    yield tell


def _finish(bar: Progress) -> None:
    for task in bar.tasks:
        bar.update(task.id, completed=task.total)
