"""The verbs of training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from intrr_rec.cli.options import (
    NEW_FILE,
    NEW_FOLDER,
    Config,
    DatasetPlace,
    Overrides,
    SemanticIdsDir,
    Vectors,
    recipe_of,
)
from intrr_rec.cli.process.before import loading, require_artefact, require_run, require_vectors
from intrr_rec.cli.process.closing import close, command
from intrr_rec.errors import ConfigError
from intrr_rec.io.console import say


def train(
    dataset: DatasetPlace,
    semantic_ids: SemanticIdsDir,
    out: Annotated[
        Path, typer.Option("--out", metavar=NEW_FOLDER, help="Run folder; training resumes from its newest checkpoint.")
    ],
    vectors: Vectors = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Run to start from; the catalogue may have grown since.")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Train IntRR (Stage 2), alone or under torchrun; ends with the test metrics of the best checkpoint."""
    from intrr_rec.io.stores.storage import location

    recipe, place = recipe_of(config, overrides), location(dataset)
    require_artefact(dataset, "dataset")
    require_artefact(semantic_ids, "semantic ids")
    require_vectors(vectors)
    if init_from:
        require_run(init_from)
    with loading():
        from intrr_rec.training.trainer import train as run

    run(recipe, dataset=place, semantic_ids=semantic_ids, vectors=vectors, out=out, init_from=init_from)
    close(command("report", "--run", out), command("export", out, "--out", f"{out}-bundle"), lies=out)


def plan(
    items: Annotated[int, typer.Option(min=1, help="Of the catalogue.")],
    ranks: Annotated[int, typer.Option(min=1, help="Processes of the job.")],
    local_ranks: Annotated[int, typer.Option(min=1, help="Of them, those of one host.")] = 8,
    device: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cuda",
    memory_gb: Annotated[float | None, typer.Option(help="A rank's memory; left out: 80 on cuda, 64 on cpu.")] = None,
    content_width: Annotated[int, typer.Option(min=1, help="Of the item vectors, for `model.content`.")] = 384,
    out: Annotated[
        Path | None, typer.Option("--out", metavar=NEW_FILE, help="JSON file to write plan and traffic to.")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Where the tables of a catalogue would lie on a cluster, and whether they fit: nothing is allocated or started."""
    recipe = recipe_of(config, overrides)
    with loading():
        from intrr_rec.distributed.planner.dry_run import plan_ahead

    plan_ahead(
        recipe,
        items=items,
        ranks=ranks,
        local_ranks=local_ranks,
        device=device,
        memory_gb=memory_gb,
        content_width=content_width,
        out=out,
    )


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [SECTION.KEY=VALUE]...", help="Run folder, and settings to override."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Run folder, as RUN. Under torchrun give RUN: it takes --run for an option of its own."
        ),
    ] = None,
) -> None:
    """Rank the whole catalogue for every test user with the best checkpoint; write metrics and recommendations."""
    words = words or []
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in words if word not in folders]
    if len(folders) + (run is not None) != 1:
        raise ConfigError("evaluate: give one run folder, as RUN or as --run RUN")
    from intrr_rec.io.stores.staging import staged

    with staged() as places:
        folder = run or places.run(folders[0], write=True)
        require_run(folder)
        with loading():
            from intrr_rec.evaluation.results import evaluate_run

        evaluate_run(folder, overrides)


def report(
    run: Annotated[Path | None, typer.Option("--run", help="Run folder written by `intrr train`.")] = None,
    semantic_ids: Annotated[
        Path | None, typer.Option("--semantic-ids", help="Artefact written by `intrr index`.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="The dataset these Semantic IDs are for.")] = None,
) -> None:
    """Write the self-contained page of a run, in it, or of Semantic IDs, beside them."""
    if run and not semantic_ids and not dataset:
        from intrr_rec.reporting.report import write_report

        say(write_report(run))
    elif semantic_ids and dataset and not run:
        from intrr_rec.reporting.index_report import write_index_report

        say(write_index_report(semantic_ids, dataset))
    else:
        raise ConfigError("report: give either --run DIR, or --semantic-ids DIR and --dataset DIR")


def compare(
    run: Annotated[
        list[Path],
        typer.Option("--run", help="Run A, then run B; with --against, the seeds of A; with --on, also bundles."),
    ],
    against: Annotated[list[Path] | None, typer.Option("--against", help="A seed of B; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar=NEW_FILE, help="JSON file to write the comparison to.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Dataset whose test users all runs and bundles rank, such as the newest version."),
    ] = None,
) -> None:
    """Compare test metrics of two runs, or two groups of seeds, by a paired bootstrap over users."""
    if on is not None:
        from intrr_rec.io.stores.storage import location

        if against:
            raise ConfigError("compare --on: takes no --against; give every run or bundle as --run, the first is A")
        require_artefact(on, "dataset")
        with loading():
            from intrr_rec.promotion.compare_on import compare_on

        compare_on(location(on), run, seed, out)
        return
    from intrr_rec.evaluation.compare import compare_runs

    compare_runs(run, against or (), seed, out)
