"""Stage 1 from end to end: dataset + item vectors → semantic ids artefact (`intrr index`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import Tensor

from intrr_rec.artefact import Manifest
from intrr_rec.config import IndexConfig
from intrr_rec.data.prepared import Dataset
from intrr_rec.data.vectors import read_vectors, vectors_hash
from intrr_rec.indexing.collisions import ORDER_RULE, dedup_digits
from intrr_rec.indexing.methods import make_quantizer
from intrr_rec.indexing.quality import measure_quality
from intrr_rec.indexing.quantizer import OnProgress, Quantizer, TensorSource, VectorSource
from intrr_rec.indexing.semantic_ids import SemanticIds

log = logging.getLogger(__name__)


def build_semantic_ids(dataset_dir: Path, vectors_path: Path, out: Path, config: IndexConfig) -> Manifest:
    """Fit the indexer on the items' vectors, tell colliding items apart, publish the artefact, show its quality.

    The same inputs, settings, machine and number of threads give the same bytes.

    Raises:
        DataError, ArtefactError: unusable dataset or vectors.
        ConfigError: more codes than distinct points, or more colliding items than de-duplication digits.
    """
    dataset = Dataset.open(dataset_dir)
    source = TensorSource(torch.from_numpy(read_vectors(vectors_path, dataset)))
    quantizer = make_quantizer(config, source.width)
    with _progress() as on_progress:
        quantizer.fit(source, on_progress)
    codes_IL = assign_all(quantizer, source)
    quality = measure_quality(codes_IL, config.sizes, relative_error(quantizer, source, codes_IL))
    digits_I = dedup_digits(codes_IL, config.dedup_codes)
    manifest = SemanticIds.write(
        out,
        codes_IL=torch.cat([codes_IL, digits_I.unsqueeze(1)], 1),
        codes_per_level=(*config.sizes, config.dedup_codes),
        codebooks=quantizer.codebooks,
        quantizer=quantizer.state(),
        item_ids=dataset.item_ids(),
        quality=quality,
        config={**config.model_dump(mode="json"), "order_rule": ORDER_RULE},
        parents={"dataset": dataset.manifest.content_hash, "vectors": vectors_hash(vectors_path)},
    )
    _show(quality, out)
    return manifest


def assign_all(quantizer: Quantizer, source: VectorSource) -> Tensor:
    """int64 `codes_IL` of all items of a source that holds them all, in dense item order."""
    codes_IL = torch.empty(source.n_items, len(quantizer.sizes), dtype=torch.int64)
    for ids_P, x_PD in source.blocks():
        codes_IL[ids_P] = quantizer.assign(x_PD)[0]
    return codes_IL


def relative_error(quantizer: Quantizer, source: VectorSource, codes_IL: Tensor) -> list[float]:
    """After each level, Σ‖x − x̂‖² / Σ‖x‖² over a source under any codes, as the quantizer means x̂."""
    total_1L = torch.zeros(1 + len(quantizer.sizes), dtype=torch.float64)
    for ids_P, x_PD in source.blocks():
        total_1L += quantizer.distances(x_PD, codes_IL[ids_P]).sum(0, dtype=torch.float64)
    return (total_1L[1:] / total_1L[0].clamp(min=torch.finfo(torch.float64).tiny)).tolist()


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


def _show(quality: dict[str, Any], out: Path) -> None:
    table = Table(title=f"Semantic IDs of {quality['items']:,} items")
    for heading in ("level", "codes used", "entropy / ln K", "perplexity", "Gini", "error left"):
        table.add_column(heading, justify="right")
    for number, level in enumerate(quality["levels"], start=1):
        table.add_row(
            str(number),
            f"{level['used']}/{level['codes']}",
            f"{level['entropy_ratio']:.3f}",
            f"{level['perplexity']:.1f}",
            f"{level['gini']:.3f}",
            f"{level['relative_error']:.3f}",
        )
    console = Console(stderr=True)
    console.print(table)
    collisions = quality["collisions"]
    console.print(
        f"{collisions['distinct_paths']:,} distinct paths ({collisions['distinct_rate']:.1%} of items); "
        f"{collisions['rate']:.1%} of items share one, {collisions['largest']} at most → {out}",
        highlight=False,
        soft_wrap=True,
    )
