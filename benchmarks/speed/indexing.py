"""`python -m benchmarks.speed indexing`: RK-Means on a generated catalogue streamed from disk, the share of the machine's GEMM peak that
assignment reaches, and FAISS on the same vectors, side by side.

FAISS is wanted here alone (`pip install faiss-cpu`); without it its columns stay empty.

Shape legend: I items, D width, L levels, K codes.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.speed import machine
from benchmarks.speed.machine import describe, gemm_peak, peak_memory_gb
from intrr_rec.data.synthetic.generator import World
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from intrr_rec.semantic_ids.source import ParquetSource

log = logging.getLogger(__name__)
ROW_GROUP, SHARD = 1 << 15, 1 << 20
ITERATIONS = 25
BATCH_PER_CODE = 256  # FAISS fits on as many vectors a centroid; ours draws them anew every iteration
IN_MEMORY = 1_000_000  # rows of the comparison: FAISS wants its vectors as one float32 array
ASSIGNED, REPEATS = 262_144, 5


def bench_indexing(*, rows: int, dimension: int, levels: int, codes: int, seed: int, out: Path) -> dict[str, Any]:
    """Measure, print a table, write all figures to `out` (JSON). Needs 2 · rows · dimension bytes of temporary disk.

    Raises:
        ConfigError: more codes than distinct vectors, or more rows than the generator can make.
    """
    device = torch.device("cpu")
    sizes = (codes,) * levels
    figures: dict[str, Any] = {"machine": describe(device), "rows": rows, "dimension": dimension, "sizes": sizes}
    figures["gemm_peak_gflops"] = gemm_peak(device) / 1e9
    with tempfile.TemporaryDirectory() as scratch:
        with _Clock() as generate:
            _write_vectors(Path(scratch), rows, dimension, seed)
        source = ParquetSource(scratch)
        with _Clock() as read:
            read_rows = sum(len(ids_P) for ids_P, _ in source.blocks())
        assert read_rows == rows
        quantizer = _rk_means(sizes, batch=BATCH_PER_CODE * codes, seed=seed)
        with _Clock() as fit:
            quantizer.fit(source, _report)
        with _Clock() as assign:
            for _, x_PD in source.blocks():
                quantizer.assign(x_PD)
        figures["streamed"] = {
            "rows": rows,
            "batch": quantizer.batch,
            "iterations": ITERATIONS,
            "generate": generate.seconds,
            "read": read.seconds,
            **_row(fit, assign, quantizer.relative_error[-1]),
            "peak_memory_gb": peak_memory_gb(torch.device("cpu")),
        }
        x_ID = _first_rows(source, min(rows, IN_MEMORY))
    figures["assign_share_of_gemm_peak"] = _share_of_peak(quantizer, x_ID[:ASSIGNED])
    figures["same_vectors"] = {"rows": len(x_ID), "engines": _side_by_side(x_ID, levels, codes, seed)}
    write_json(out, figures)
    _print(figures)
    return figures


def _rk_means(sizes: Sequence[int], *, batch: int | None, seed: int) -> ResidualKMeans:
    return ResidualKMeans(sizes, normalize=False, iterations=ITERATIONS, tolerance=0.0, seed=seed, batch=batch)


def _write_vectors(folder: Path, rows: int, dimension: int, seed: int) -> None:
    world = World(n_items=rows, seed=seed, dimension=dimension)
    for part, first in enumerate(range(0, rows, SHARD)):
        ends = range(first, min(first + SHARD, rows), ROW_GROUP)
        tables = (world.vectors(np.arange(start, min(start + ROW_GROUP, first + SHARD, rows))) for start in ends)
        head = next(tables)
        with pq.ParquetWriter(folder / f"part-{part:05d}.parquet", head.schema, use_dictionary=False) as writer:
            writer.write_table(head)
            for table in tables:
                writer.write_table(table)


def _first_rows(source: ParquetSource, most: int) -> Tensor:
    x_ID = torch.empty(most, source.width)
    filled = 0
    for _, x_PD in source.blocks():
        taken = min(len(x_PD), most - filled)
        x_ID[filled : filled + taken] = x_PD[:taken]
        filled += taken
        if filled == most:
            break
    return x_ID


def _share_of_peak(quantizer: ResidualKMeans, x_ID: Tensor) -> dict[str, float]:
    """FLOPs of the matrix products alone over the time of all of `assign`, against a large product's, with and without
    normalisation of levels: medians of runs taken in turn, in processor time, so that a busy machine slows both alike."""
    a = torch.randn(machine.SIZE, machine.SIZE)
    flops = 2 * sum(len(codebook_KD) for codebook_KD in quantizer.codebooks) * x_ID.numel()
    found: dict[str, list[float]] = {"plain": [], "normalised": []}
    was = quantizer.normalize
    for name, shares in found.items():
        quantizer.normalize = name == "normalised"
        for _ in range(REPEATS):
            with _Clock() as product:
                torch.mm(a, a)
            with _Clock() as assign:
                quantizer.assign(x_ID)
            seconds_at_peak = flops * product.seconds["processor"] / (2 * machine.SIZE**3)
            shares.append(seconds_at_peak / assign.seconds["processor"])
    quantizer.normalize = was
    return {name: statistics.median(shares) for name, shares in found.items()}


def _side_by_side(x_ID: Tensor, levels: int, codes: int, seed: int) -> dict[str, Any]:
    """Seconds to fit and to assign, and Σ‖x − x̂‖² / Σ‖x‖², of every engine on the same vectors, all in memory."""
    sizes = (codes,) * levels
    ours: dict[str, Any] = {}
    for name, batch in (("ours, all vectors an iteration", None), ("ours, mini-batches", BATCH_PER_CODE * codes)):
        quantizer = _rk_means(sizes, batch=batch, seed=seed)
        with _Clock() as fit:
            quantizer.fit(TensorSource(x_ID), _report)
        with _Clock() as assign:
            codes_IL, _ = quantizer.assign(x_ID)
        ours[name] = _row(fit, assign, _error(x_ID, codes_IL, quantizer.codebooks))
    if importlib.util.find_spec("faiss") is None:
        log.warning("faiss is not installed: its columns are left out; `pip install faiss-cpu` adds them")
        return ours
    return ours | _faiss(x_ID, levels, codes, seed)


def _faiss(x_ID: Tensor, levels: int, codes: int, seed: int) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    x = np.ascontiguousarray(x_ID.numpy())
    found: dict[str, Any] = {}
    bits = (codes - 1).bit_length()
    if 1 << bits == codes:
        for beam in (1, 5):
            quantizer = faiss.ResidualQuantizer(x.shape[1], levels, bits)
            quantizer.max_beam_size = beam
            with _Clock() as fit:
                quantizer.train(x)
            with _Clock() as assign:
                packed = quantizer.compute_codes(x)
            error = _ratio(x_ID, torch.from_numpy(quantizer.decode(packed)))
            found[f"FAISS ResidualQuantizer, beam {beam}"] = _row(fit, assign, error)
    for name, most in (("256 vectors a centroid", BATCH_PER_CODE), ("all vectors", len(x))):
        left, fit, assign = x.copy(), _Clock(), _Clock()
        for level in range(levels):
            means = faiss.Kmeans(
                x.shape[1], codes, niter=ITERATIONS, seed=seed + level + 1, max_points_per_centroid=most
            )
            with fit:
                means.train(left)
            with assign:
                _, nearest = means.index.search(left, 1)
                left -= means.centroids[nearest[:, 0]]
        error = float(np.square(left, dtype=np.float64).sum() / np.square(x, dtype=np.float64).sum())
        found[f"FAISS Kmeans a level, {name}"] = _row(fit, assign, error)
    return found


def _row(fit: _Clock, assign: _Clock, error: float) -> dict[str, Any]:
    return {"fit": fit.seconds, "assign": assign.seconds, "relative_error": error}


def _error(x_ID: Tensor, codes_IL: Tensor, codebooks: Sequence[Tensor]) -> float:
    rebuilt_ID = torch.zeros_like(x_ID)
    for level, codebook_KD in enumerate(codebooks):
        rebuilt_ID += codebook_KD[codes_IL[:, level]]
    return _ratio(x_ID, rebuilt_ID)


def _ratio(x_ID: Tensor, rebuilt_ID: Tensor) -> float:
    return float((x_ID - rebuilt_ID).square().sum(dtype=torch.float64) / x_ID.square().sum(dtype=torch.float64))


class _Clock:
    """Adds up the seconds spent inside it: on the wall, and of the processor, which a busy machine does not stretch."""

    def __init__(self) -> None:
        self.seconds = {"wall": 0.0, "processor": 0.0}

    def __enter__(self) -> _Clock:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds["wall"] += time.perf_counter() - self._began[0]
        self.seconds["processor"] += time.process_time() - self._began[1]


def _report(what: str, step: int, steps: int, merit: float) -> None:
    if step in (1, steps):
        log.info("%s: step %d of %d, %.4g", what, step, steps, merit)


def _print(figures: dict[str, Any]) -> None:
    streamed, same = figures["streamed"], figures["same_vectors"]
    table = Table(
        title=f"{figures['machine']['device']}, {figures['machine']['threads']} threads; seconds on the wall (of the processor)"
    )
    for heading in ("engine", "rows", "fit", "assign", "error left"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, row in {"ours, streamed": streamed, **same["engines"]}.items():
        times = (f"{row[what]['wall']:,.1f} ({row[what]['processor']:,.1f})" for what in ("fit", "assign"))
        table.add_row(name, f"{row.get('rows', same['rows']):,}", *times, f"{row['relative_error']:.4f}")
    console = Console()
    console.print(table)
    share = figures["assign_share_of_gemm_peak"]
    console.print(
        f"assignment at {share['plain']:.0%} of the GEMM peak ({share['normalised']:.0%} with normalised levels); "
        f"peak memory {streamed['peak_memory_gb']:.2f} GB",
        highlight=False,
    )
