"""`intrr bench …`: the project's own measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intrr_rec.cli.options import Config, DatasetDir, Overrides, SemanticIdsDir, Vectors, recipe_of

bench = typer.Typer(help="Measure this machine with the project's own benchmarks.", no_args_is_help=True)


@bench.command("indexing")
def bench_indexing(
    out: Annotated[Path, typer.Option("--out", help="JSON file to write the figures to.")],
    rows: Annotated[int, typer.Option(min=1_000, help="Vectors to generate, stream and index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(min=1)] = 64,
    levels: Annotated[int, typer.Option(min=1)] = 3,
    codes: Annotated[int, typer.Option(min=2)] = 256,
    seed: int = 0,
) -> None:
    """RK-Means on generated vectors streamed from disk: time, memory, share of the GEMM peak, FAISS side by side."""
    from intrr_rec.bench.indexing import bench_indexing as run

    run(rows=rows, dimension=dimension, levels=levels, codes=codes, seed=seed, out=out)


@bench.command("training")
def bench_training(
    dataset: DatasetDir,
    semantic_ids: SemanticIdsDir,
    out: Annotated[Path, typer.Option("--out", help="JSON file to write the figures to.")],
    evaluation: Annotated[bool, typer.Option(help="Time the evaluation of the test users, too.")] = True,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Epoch and evaluation time, memory, share of the machine's GEMM peak, and a profile of the training step."""
    from intrr_rec.bench.training import bench_training as run

    recipe = recipe_of(config, overrides)
    run(recipe, dataset=dataset, semantic_ids=semantic_ids, vectors=vectors, out=out, evaluation=evaluation)


@bench.command("decoding")
def bench_decoding(
    dataset: DatasetDir,
    semantic_ids: SemanticIdsDir,
    out: Annotated[Path, typer.Option("--out", help="JSON file to write the figures to.")],
    beams: Annotated[str, typer.Option("--beams", help="Beam widths, such as 10,20,50.")] = "10,20,50",
    repeats: Annotated[int, typer.Option(min=1, help="Decodes a beam width; their median is reported.")] = 15,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Milliseconds of decoding one batch of full histories, by beam width; the weights are random."""
    from intrr_rec.bench.decoding import bench_decoding as run
    from intrr_rec.bench.decoding import parse_beams

    recipe, widths = recipe_of(config, overrides), parse_beams(beams)
    run(recipe, dataset=dataset, semantic_ids=semantic_ids, vectors=vectors, beams=widths, repeats=repeats, out=out)


@bench.command("scaling")
def bench_scaling(
    out: Annotated[Path, typer.Option("--out", help="JSON file to write the figures to.")],
    rows: Annotated[
        list[int] | None,
        typer.Option("--rows", min=10, help="Size of the catalogue; repeatable; 10⁴ to 10⁷ if left out."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps a size; their median is reported.")] = 10,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Step time, start-up time and peak memory as the catalogue grows and the batch stays; one process a size."""
    from intrr_rec.bench.scaling import ROWS
    from intrr_rec.bench.scaling import bench_scaling as run

    run(recipe_of(config, overrides), rows=rows or ROWS, steps=steps, threads=threads, out=out)
