"""`python -m benchmarks.speed …`: the project's own measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed import of_a_step  # noqa: F401 its commands join
from benchmarks.speed.options import Out, Page, bench
from intrr_rec.cli.options import (
    Config,
    DatasetDir,
    DatasetPlace,
    Master,
    MemoryGb,
    Overrides,
    SemanticIdsDir,
    Vectors,
    recipe_of,
)
from intrr_rec.errors import ConfigError
from intrr_rec.io.stores.storage import location


@bench.command("indexing")
def bench_indexing(
    out: Out,
    rows: Annotated[int, typer.Option(min=1_000, help="Vectors to generate, stream and index.")] = 1_000_000,
    dimension: Annotated[int, typer.Option(min=1)] = 64,
    levels: Annotated[int, typer.Option(min=1)] = 3,
    codes: Annotated[int, typer.Option(min=2)] = 256,
    seed: int = 0,
) -> None:
    """RK-Means on generated vectors streamed from disk: time, memory, share of the GEMM peak, FAISS side by side."""
    from benchmarks.speed.indexing import bench_indexing as run

    run(rows=rows, dimension=dimension, levels=levels, codes=codes, seed=seed, out=out)


@bench.command("training")
def bench_training(
    dataset: DatasetDir,
    semantic_ids: SemanticIdsDir,
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Steps a case after the warm-up; their median is reported.")] = 30,
    backbone: Annotated[
        list[str] | None, typer.Option("--backbone", help="t5 or hstu; repeatable; both if left out.")
    ] = None,
    page: Page = None,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """The paper's Table 2: training speed and memory of IntRR and its flattened twin, in turns, and where the time goes."""
    from benchmarks.speed.training import bench_training as run
    from benchmarks.speed.training import parse_backbones

    run(
        recipe_of(config, overrides),
        dataset=dataset,
        semantic_ids=semantic_ids,
        vectors=vectors,
        out=out,
        steps=steps,
        backbones=parse_backbones(backbone),
        page=page,
    )


@bench.command("epoch")
def bench_epoch(
    dataset: DatasetDir,
    semantic_ids: SemanticIdsDir,
    out: Out,
    evaluation: Annotated[bool, typer.Option(help="Time the evaluation of the test users, too.")] = True,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Epoch and evaluation time of one recipe, memory, share of the machine's GEMM peak, and a profile of the step."""
    from benchmarks.speed.epoch import bench_epoch as run

    recipe = recipe_of(config, overrides)
    run(recipe, dataset=dataset, semantic_ids=semantic_ids, vectors=vectors, out=out, evaluation=evaluation)


@bench.command("loader")
def bench_loader(
    dataset: DatasetPlace,
    semantic_ids: SemanticIdsDir,
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Training steps; their median is reported.")] = 20,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Sequences a second that the loader makes, in memory and streamed, beside what the training step takes."""
    from benchmarks.speed.loader import bench_loader as run

    recipe = recipe_of(config, overrides)
    run(recipe, dataset=location(dataset), semantic_ids=semantic_ids, vectors=vectors, out=out, steps=steps)


@bench.command("decoding")
def bench_decoding(
    out: Out,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="Times the recipe's model on this data.")] = None,
    semantic_ids: Annotated[Path | None, typer.Option("--semantic-ids", help="Its Semantic IDs.")] = None,
    beams: Annotated[str, typer.Option("--beams", help="Beam widths.")] = "10,15,20,25,30,50",
    repeats: Annotated[int, typer.Option(min=1, help="Decodes a beam width; their median is reported.")] = 15,
    items: Annotated[int, typer.Option(min=10, help="Without a dataset: of the random catalogue.")] = 10_000,
    large_items: Annotated[
        int, typer.Option(min=0, help="And of a second one, for IntRR alone; 0: none.")
    ] = 10_000_000,
    page: Page = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="With a dataset: a second recipe, timed in turns with the first.")
    ] = None,
    vectors: Vectors = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Milliseconds of decoding a batch by beam width: IntRR beside the baselines, or a recipe's model on its data.

    Weights are random. Without --dataset, IntRR and the flattened baseline (the same items or as many tokens, with a cache or
    without) are timed in turns over random Semantic IDs, N = 32 (IntRR Table 3).
    """
    from benchmarks.speed.decoding import bench_decoding as run_one
    from benchmarks.speed.decoding import parse_beams
    from benchmarks.speed.side_by_side import SHAPE, compare_decoding

    widths = parse_beams(beams)
    if dataset and semantic_ids:
        run_one(
            recipe_of(config, overrides),
            dataset=dataset,
            semantic_ids=semantic_ids,
            vectors=vectors,
            beams=widths,
            repeats=repeats,
            out=out,
            against=None if against is None else recipe_of(against, overrides),
        )
    elif dataset or semantic_ids or against:
        raise ConfigError(
            "bench decoding: give both --dataset DIR and --semantic-ids DIR, or neither; --against needs them"
        )
    else:
        recipe = recipe_of(config, [*(() if config else SHAPE), *(overrides or ())])
        users = recipe.evaluate.batch_users
        compare_decoding(
            recipe, items=items, large_items=large_items, users=users, beams=widths, rounds=repeats, out=out, page=page
        )


@bench.command("recall")
def bench_recall(
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle written by `intrr export`.")],
    dataset: DatasetDir,
    out: Out,
    beams: Annotated[str, typer.Option("--beams", help="Beam widths.")] = "10,20,50,100,200",
    users: Annotated[int, typer.Option(min=1, help="Test users drawn.")] = 100,
    seed: int = 0,
) -> None:
    """How much of the exhaustive ranking of a trained model a beam finds, by its width."""
    from benchmarks.speed.decoding import parse_beams
    from benchmarks.speed.recall import bench_recall as run

    run(bundle, dataset, beams=parse_beams(beams), users=users, seed=seed, out=out)


@bench.command("scaling")
def bench_scaling(
    out: Out,
    rows: Annotated[
        list[int] | None,
        typer.Option("--rows", min=10, help="Size of the catalogue; repeatable; 10⁴ to 10⁷ if left out."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps a size; their median is reported.")] = 10,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    page: Annotated[Path | None, typer.Option("--page", help="Folder to write scaling.md and scaling.svg to.")] = None,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the page of the figures in --out.")] = False,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Step, start-up and memory as the catalogue grows; one rank against two."""
    from benchmarks.speed.scaling import ROWS
    from benchmarks.speed.scaling import bench_scaling as run
    from benchmarks.tables.scaling import write_scaling_page

    if not write_only:
        run(recipe_of(config, overrides), rows=rows or ROWS, steps=steps, threads=threads, out=out)
    if page:
        typer.echo(write_scaling_page(out, page))


@bench.command("preparation")
def bench_preparation(
    out: Out,
    rows: Annotated[int, typer.Option(min=1_000, help="Interactions to generate, about.")] = 10_000_000,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", help="duckdb or spark; repeatable; duckdb if left out.")
    ] = None,
    master: Master = "local[*]",
    memory_gb: MemoryGb = 4.0,
    scratch: Annotated[Path, typer.Option("--scratch", help="Folder to make, fill and remove.")] = Path(
        "bench-scratch"
    ),
    days: Annotated[int | None, typer.Option(help="Measure a day added to so many, and the rebuild.")] = None,
    seed: int = 0,
) -> None:
    """Generated logs, prepared by each engine: time on the wall and of the processor, memory; the datasets are compared."""
    from benchmarks.speed import preparation

    if days is not None:
        preparation.bench_append(rows=rows, days=days, seed=seed, scratch=scratch, out=out)
        return
    engines = engine or ["duckdb"]
    preparation.bench_preparation(
        rows=rows, engines=engines, master=master, memory_gb=memory_gb, seed=seed, scratch=scratch, out=out
    )


@bench.command("guard")
def bench_guard(
    baseline: Annotated[Path, typer.Option("--baseline", help="JSON file of the ratios to hold.")] = Path(
        "benchmarks/guard.json"
    ),
    record: Annotated[bool, typer.Option("--record", help="Write the baseline instead.")] = False,
) -> None:
    """Has a training step or a decode become slower than the baseline has it? Exit code 1 then; takes half a minute."""
    from benchmarks.speed.guard import bench_guard as run

    raise typer.Exit(0 if run(baseline, record=record) else 1)


@bench.command("serving")
def bench_serving(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `intrr export`.")],
    out: Out,
    rates: Annotated[str, typer.Option("--rates", help="Requests a second, such as 10,50,100.")] = "10,25,50,75,100",
    seconds: Annotated[float, typer.Option(min=1, max=120, help="Length of the measurement of a rate.")] = 20,
    k: Annotated[int, typer.Option("-k", min=1, help="Items asked for.")] = 10,
    beam: Annotated[int, typer.Option(min=1, help="W.")] = 20,
    longest: Annotated[int, typer.Option(min=1, help="Histories have one to so many items.")] = 20,
    seed: int = 0,
    settings: Annotated[list[str] | None, typer.Argument(metavar="[serve.KEY=VALUE]...", help="Of the server.")] = None,
) -> None:
    """Latency of the online server by load: open-loop requests from this process to a server in another, on loopback."""
    from benchmarks.speed.serving import Load, parse_rates
    from benchmarks.speed.serving import bench_serving as run

    run(bundle, Load(parse_rates(rates), seconds, k, beam, longest, seed), settings or (), out)


@bench.command("attention")
def bench_attention(
    out: Out,
    window: Annotated[
        list[int] | None, typer.Option("--window", min=8, help="Longest history; repeatable; 64 to 8,192 if left out.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Passes per window; the least is reported.")] = 5,
) -> None:
    """HSTU's attention as the window grows, over whole blocks and by tiles: processor time, pairs computed per pair needed."""
    from benchmarks.speed.attention import bench_attention as run

    run(window or [64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192], repeats, out)


@bench.command("features")
def bench_features(
    out: Out,
    users: Annotated[int, typer.Option(min=50)] = 6_000,
    items: Annotated[int, typer.Option(min=100)] = 5_000,
    steps: Annotated[int, typer.Option(min=2, help="Of each model; their median is reported.")] = 30,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """A training step with four features of events and six of items beside the same without, in turns."""
    from benchmarks.speed.features import bench_features as run

    run(recipe_of(config, overrides), users=users, items=items, steps=steps, out=out)


@bench.command("cluster")
def bench_cluster(
    out: Out,
    items: Annotated[int, typer.Option(min=1, help="Of the catalogue.")] = 10**9,
    ranks: Annotated[int, typer.Option(min=2, help="GPUs, eight a host.")] = 64,
    users: Annotated[int, typer.Option(min=1, help="Windows a step of each rank.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the host's part; their median is reported.")] = 9,
    content_width: Annotated[int, typer.Option(min=1, help="Of the item vectors, for `model.content`.")] = 384,
    page: Page = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """10⁹ items on 64 H100s on paper: memory of devices and hosts, and a step of max(host, device) + exposed exchanges."""
    from benchmarks.speed.cluster import bench_cluster as run

    recipe = recipe_of(config, overrides)
    run(recipe, items=items, ranks=ranks, users=users, steps=steps, content_width=content_width, out=out, page=page)


@bench.command("catalogue")
def bench_catalogue(
    work: Annotated[Path, typer.Option("--work", help="Folder to work in; finished stages there are not run again.")],
    items: Annotated[int, typer.Option(min=1_000)] = 10_000_000,
    users: Annotated[
        int, typer.Option(min=100, help="Each is a training window: their number makes the steps.")
    ] = 51_200,
    ranks: Annotated[int, typer.Option(min=1, help="Processes of a local torchrun, one thread each.")] = 2,
    page: Page = None,
    config: Annotated[Path, typer.Option("--config", help="Recipe.")] = Path("configs/catalogue.yaml"),
    overrides: Overrides = None,
) -> None:
    """Generate → index → train → evaluate → export → recommend → serve over one large catalogue: what each stage costs."""
    from benchmarks.speed.catalogue import bench_catalogue as run

    run(config, overrides or (), items=items, users=users, work=work, ranks=ranks, page=page)


@bench.command("month")
def bench_month(
    work: Annotated[Path, typer.Option("--work", help="Folder to make, for logs and artefacts.")],
    out: Out,
    days: Annotated[int, typer.Option(min=2, help="The first one is all that was before.")] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Of a full training.")] = 12,
    daily_epochs: Annotated[int, typer.Option(min=1, help="Of a day after the first.")] = 2,
    retrain: Annotated[
        list[int] | None,
        typer.Option("--retrain", help="Day of a full retraining; repeatable; every fourth if left out."),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="A shop that takes seconds.")] = False,
    seed: int = 0,
) -> None:
    """A month of the daily pipeline over a growing catalogue: what a day costs, and Recall@10 on the next one against full retraining."""
    from benchmarks.speed.month import bench_month as run

    chosen = retrain or range(1 + (days - 2) % 4, days, 4)  # the last one is the last day but one
    run(work, out, days=days, epochs=epochs, daily_epochs=daily_epochs, retrain=chosen, seed=seed, small=small)


if __name__ == "__main__":
    from intrr_rec.cli import run_app

    run_app(bench, "python -m benchmarks.speed")
