"""Stage 1 from end to end: dataset + item vectors → semantic ids artefact (`intrr index`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from intrr_rec.config import IndexConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Draft, Manifest
from intrr_rec.io.console import console, shows_bars
from intrr_rec.semantic_ids.artefact import KIND, fill
from intrr_rec.semantic_ids.collisions import costs_from, dedup_digits, order_rule, resolve_collisions
from intrr_rec.semantic_ids.quality.categories import read_categories
from intrr_rec.semantic_ids.quality.gate import require_quality
from intrr_rec.semantic_ids.quality.metrics import MEASURED_ITEMS, assess
from intrr_rec.semantic_ids.quality.summary import show_quality
from intrr_rec.semantic_ids.quantizers.collaborative import collaborative_vectors
from intrr_rec.semantic_ids.quantizers.exact import ALONE, Peers, padded_gather
from intrr_rec.semantic_ids.quantizers.methods import fits_together, make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, Quantizer, VectorSource
from intrr_rec.semantic_ids.source import ParquetSource, RowsSource, draw_samples
from intrr_rec.vectors.table import vectors_hash

log = logging.getLogger(__name__)


def build_semantic_ids(
    dataset_dir: Path, vectors_path: Path, out: Path, config: IndexConfig, on_progress: OnProgress | None = None
) -> Manifest | None:
    """Fit the indexer on the items' vectors, tell colliding items apart, publish the artefact, show its quality.

    Alone or under torchrun, where every rank reads its share of the vectors and the main one writes; the others return
    None. `on_progress` takes the place of the bar and the log lines. The same inputs, settings and machine give the same bytes, on any number of ranks where `fits_together`.

    Raises:
        DataError, ArtefactError: unusable dataset or vectors, or another job is writing `out`; known before the work.
        ConfigError: more items than Semantic IDs (known before the work), more codes than distinct points, more colliding items than de-duplication digits, or Semantic IDs below
            a floor of `index.gate`.
    """
    with join_world() as world, ExitStack() as stack:
        dataset = Dataset.open(dataset_dir)
        config.require_capacity(dataset.n_items)
        together = fits_together(config)
        drafts: list[Draft] = []

        def begin() -> None:
            if world.is_main:
                drafts.append(stack.enter_context(artefact.writing(out, KIND, {})))

        world.agree(begin)
        if not (together or world.is_main):
            return None
        peers = world if together else ALONE
        source = ParquetSource(vectors_path, dataset, peers)
        alignment = config.collaborative
        collaborative_IC = collaborative_vectors(dataset, alignment.width, config.seed) if alignment.weight else None
        quantizer = make_quantizer(config, source.width, collaborative_IC, peers)
        fitted, measured = _samples(source, config, peers)
        with _progress(peers) if on_progress is None else nullcontext(on_progress) as told:
            quantizer.fit(fitted, told)
        codes_IL = assign_all(quantizer, source, peers)
        if not world.is_main:
            return None
        held = stack.pop_all()
    with held:
        source = ParquetSource(vectors_path, dataset)
        costs_of = costs_from(quantizer, source, codes_IL)
        codes_IL = resolve_collisions(codes_IL, config.collisions, config.sizes[-1], costs_of)
        categories = read_categories(dataset, config.category_column)
        quality, _ = assess(quantizer, measured or source, codes_IL, categories, config.seed)
        require_quality(quality, config.gate)
        digits_I = dedup_digits(codes_IL, config.dedup_codes)
        fill(
            drafts[0],
            codes_IL=torch.cat([codes_IL, digits_I.unsqueeze(1)], 1),
            codes_per_level=(*config.sizes, config.dedup_codes),
            codebooks=quantizer.codebooks,
            quantizer=quantizer.state(),
            item_ids=dataset.item_ids(),
            quality=quality,
            config={
                **config.model_dump(mode="json"),
                "order_rule": order_rule(config.collisions),
                "width": source.width,
            },
            parents={"dataset": dataset.manifest.content_hash, "vectors": vectors_hash(vectors_path)},
        )
    show_quality(quality, out)
    return artefact.read(out, KIND)


def _samples(source: VectorSource, config: IndexConfig, peers: Peers) -> tuple[VectorSource, RowsSource | None]:
    """This rank's rows that codebooks are fitted on, and, of a large catalogue, the rows of all ranks that quality is measured on."""
    most = source.n_items if config.sample is None else config.sample
    if source.n_items <= min(most, MEASURED_ITEMS):
        return source, None
    fitted, measured = draw_samples(source, [most if most < source.n_items else 0, MEASURED_ITEMS], config.seed, peers)
    ids_R, x_RD = (padded_gather(part, peers) for part in (measured.ids_R, measured.x_RD))
    order_R = ids_R.argsort()
    is_large = source.n_items > MEASURED_ITEMS
    return (
        fitted if most < source.n_items else source,
        RowsSource(ids_R[order_R], x_RD[order_R], len(ids_R)) if is_large else None,
    )


def assign_all(quantizer: Quantizer, source: VectorSource, peers: Peers = ALONE) -> Tensor:
    """int64 `codes_IL` of all items, in dense item order, on every rank, each of which assigns its share."""
    ids, codes = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, len(quantizer.sizes), dtype=torch.int32)]
    for ids_P, x_PD in source.blocks():
        ids.append(ids_P)
        codes.append(quantizer.assign(x_PD)[0].cpu().int())
    codes_IL = torch.empty(source.n_items, len(quantizer.sizes), dtype=torch.int64)
    codes_IL[padded_gather(torch.cat(ids), peers)] = padded_gather(torch.cat(codes), peers).long()
    return codes_IL


@contextmanager
def _progress(peers: Peers) -> Iterator[OnProgress]:
    """A bar for each thing that runs on a terminal; elsewhere a log line at its first step and at every tenth of it."""
    screen = console(stderr=True)
    if shows_bars() and peers.rank == 0:
        with Progress(console=screen) as bar:
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
