"""Stage 1 from end to end: dataset + item vectors → semantic ids artefact (`intrr index`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from intrr_rec.artefact import Manifest
from intrr_rec.config import IndexConfig
from intrr_rec.data.prepared import Dataset
from intrr_rec.data.vectors import read_vectors, vectors_hash
from intrr_rec.indexing.collisions import ORDER_RULE, dedup_digits
from intrr_rec.indexing.quality import measure_quality
from intrr_rec.indexing.residual_kmeans import ResidualKMeans
from intrr_rec.indexing.semantic_ids import SemanticIds

log = logging.getLogger(__name__)


def build_semantic_ids(dataset_dir: Path, vectors_path: Path, out: Path, config: IndexConfig) -> Manifest:
    """Fit RK-Means on the items' vectors, tell colliding items apart, publish the artefact, show its quality.

    The same inputs, settings, machine and number of threads give the same bytes.

    Raises:
        DataError, ArtefactError: unusable dataset or vectors.
        ConfigError: more codes than distinct points, or more colliding items than de-duplication digits.
    """
    dataset = Dataset.open(dataset_dir)
    vectors_ID = torch.from_numpy(read_vectors(vectors_path, dataset))
    quantizer = ResidualKMeans(
        config.levels,
        config.codes,
        normalize=config.normalize,
        iterations=config.iterations,
        tolerance=config.tolerance,
        seed=config.seed,
    )
    with _progress(config) as on_iteration:
        quantizer.fit(vectors_ID, on_iteration)
    codes_IL, _ = quantizer.assign(vectors_ID)
    residual_sizes = (config.codes,) * config.levels
    quality = measure_quality(codes_IL, residual_sizes, quantizer.relative_error)
    digits_I = dedup_digits(codes_IL, config.dedup_codes)
    manifest = SemanticIds.write(
        out,
        codes_IL=torch.cat([codes_IL, digits_I.unsqueeze(1)], 1),
        codes_per_level=(*residual_sizes, config.dedup_codes),
        codebooks=quantizer.codebooks,
        item_ids=dataset.item_ids(),
        quality=quality,
        config={**config.model_dump(), "order_rule": ORDER_RULE},
        parents={"dataset": dataset.manifest.content_hash, "vectors": vectors_hash(vectors_path)},
    )
    _show(quality, out)
    return manifest


@contextmanager
def _progress(config: IndexConfig) -> Iterator[Callable[[int, float], None]]:
    """A bar a level on a terminal, a log line as each level begins elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console) as bar:
            tasks = [
                bar.add_task(f"RK-Means level {level + 1}/{config.levels}", total=config.iterations)
                for level in range(config.levels)
            ]
            yield lambda level, inertia: bar.advance(tasks[level])
            for task in tasks:  # a level that converged early is done
                bar.update(task, completed=config.iterations)
        return
    begun: set[int] = set()

    def on_iteration(level: int, inertia: float) -> None:
        if level not in begun:
            begun.add(level)
            log.info("RK-Means level %d/%d: inertia %.4g after the first iteration", level + 1, config.levels, inertia)

    yield on_iteration


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
