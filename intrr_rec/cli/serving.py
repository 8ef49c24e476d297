"""The verbs that go on where a run ends: bundles, and what is recommended from them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from intrr_rec.cli.options import NEW_FILE, Config, Out, Overrides, Vectors, recipe_of
from intrr_rec.cli.process.before import loading, require_artefact, require_run, require_vectors
from intrr_rec.cli.process.closing import close, command
from intrr_rec.errors import ConfigError, DataError


def export(
    run: Annotated[Path, typer.Argument(help="Run folder written by `intrr train`.")],
    out: Out,
    rows: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option("--rows", help="Type of the rows of items.")
    ] = "float32",
    semantic_ids: Annotated[
        Path | None, typer.Option("--semantic-ids", help="A version that extends the run's: its new items come along.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="The dataset of that version.")] = None,
    vectors: Vectors = None,
    over: Annotated[
        Path | None,
        typer.Option(
            "--over", help="A bundle: write only what differs from it, for `intrr promote` where that one lies."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar=NEW_FILE, help="Evaluate model and bundle; JSON file of both figures."),
    ] = None,
) -> None:
    """The best checkpoint of a run → a bundle: all that recommending needs, and nothing that training does."""
    if (semantic_ids is None) != (dataset is None) or (report and dataset):
        raise ConfigError("export: --semantic-ids and --dataset go together, and without --report")
    if over and report:
        raise ConfigError("export: --report is of a whole bundle; leave --over or --report out")
    require_run(run)
    require_vectors(vectors)
    if over:
        require_artefact(over, "bundle")
    with loading():
        from intrr_rec.serving.bundle.deltas.export_delta import export_over
        from intrr_rec.serving.bundle.export import Grown, write_bundle
        from intrr_rec.serving.bundle.report import report_bundle

    grown = Grown(dataset, semantic_ids, vectors) if dataset and semantic_ids else None
    if over:
        export_over(over, run, out, rows, grown)
        close(command("promote", out, "--over", "REGISTRY", "--on", dataset or "DATASET"))
        return
    write_bundle(run, out, rows, grown)
    close(
        command("serve", out), command("recommend", "--bundle", out, "--events", "EVENTS", "--out", "recommendations")
    )
    if report:
        report_bundle(run, out, report)


def recommend(
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle written by `intrr export`.")],
    out: Out,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="Its users are recommended to.")] = None,
    events: Annotated[
        Path | None, typer.Option("--events", help="Or: a table of events, as `intrr prepare` takes logs.")
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option("--users", help="With --events: user table, for a bundle that reads features of users."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="FEATURE=VALUE that is asked for, such as action=buy; repeatable."),
    ] = None,
    held_out: Annotated[int, typer.Option(min=0, help="Last events of the dataset's users to leave out.")] = 0,
    k: Annotated[int, typer.Option("-k", min=1, help="Items a user.")] = 20,
    beam: Annotated[int | None, typer.Option(min=1, help="W; left out: what the run was evaluated with.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Users decoded together.")] = 256,
    shard_users: Annotated[int, typer.Option(min=1, help="Users a file, and what a killed job may lose.")] = 16_384,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--keep-seen", help="Leave out the items of the user's own history. [default: as evaluated]"
        ),
    ] = None,
    deny: Annotated[Path | None, typer.Option("--deny", help="Text file of item ids nobody gets.")] = None,
    allow: Annotated[Path | None, typer.Option("--allow", help="Text file of the item ids that may be had.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="COLUMN=VALUE of the items, or !=, >=, <; with OR between several; repeatable: all must hold.",
        ),
    ] = None,
    newer_than: Annotated[str | None, typer.Option(help="Only items nobody had before this date.")] = None,
    overrides: Overrides = None,
) -> None:
    """Bundle and histories → Parquet of ranked items; sharded over ranks, goes on where it was killed."""
    if (dataset is None) == (events is None):
        raise ConfigError("recommend: give either --dataset DIR or --events FILE")
    if events is None and overrides:
        raise ConfigError(
            f"recommend --dataset: {overrides[0]} is not read: a dataset is prepared already; leave it out"
        )
    if dataset is None and held_out:
        raise ConfigError("recommend --events: --held-out is not read; leave it out, or give --dataset")
    if events is None and users is not None:
        raise ConfigError("recommend --dataset: --users is not read: a dataset has its users' features; leave it out")
    asked = dict(word.partition("=")[::2] for word in context or ())
    if wrong := next((word for word in context or () if "=" not in word), None):
        raise ConfigError(f"recommend --context {wrong}: write FEATURE=VALUE, such as action=buy")
    require_artefact(bundle, "bundle")
    with loading():
        from intrr_rec.serving.batch.event_source import events_for
        from intrr_rec.serving.batch.filter_options import read_filters
        from intrr_rec.serving.batch.histories import DatasetSource
        from intrr_rec.serving.batch.recommend import Options, recommend_all
        from intrr_rec.serving.bundle.bundle import Bundle, this_device

    opened = Bundle.load(bundle, this_device())
    filters = read_filters(
        opened.items, exclude_seen=exclude_seen, deny=deny, allow=allow, where=where or (), newer_than=newer_than
    )
    options = Options(k, beam, filters, batch, shard_users, asked)
    if dataset:
        recommend_all(opened, DatasetSource(dataset, held_out), out, options)
    elif events:
        recommend_all(opened, events_for(opened, events, overrides or (), users), out, options)


def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `intrr export`.")],
    host: Annotated[str, typer.Option(help="Address to bind; others than loopback need a token in INTRR_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free one; the log says which.")] = 8765,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer, one a core; memory holds the bundle once.")
    ] = 1,
    withdrawn: Annotated[
        Path | None,
        typer.Option("--withdrawn", help="Text file of item ids nobody gets; read again when it changes."),
    ] = None,
    socket: Annotated[int | None, typer.Option(hidden=True, help="Descriptor that a worker is handed.")] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Answer requests from a bundle, with a page to look at; SIGHUP reads the bundle anew, SIGTERM ends in good order."""
    settings = recipe_of(config, overrides).serve
    require_artefact(bundle, "bundle")
    if withdrawn is not None and not withdrawn.is_file():
        raise DataError(f"--withdrawn {withdrawn}: no such file; write item ids as text, one a line, or leave it out")
    if workers > 1 and socket is None:
        from intrr_rec.serving.http.workers.supervisor import supervise

        settings.share(workers)
        options = ["--host", host, "--workers", workers, *(("--config", config) if config else ()), *(overrides or ())]
        options += ["--withdrawn", withdrawn] if withdrawn else []
        again = [sys.executable, "-m", "intrr_rec", "serve", bundle, *options]
        raise typer.Exit(supervise([str(word) for word in again], host, port, workers))
    with loading():
        from intrr_rec.serving.http.server import serve as run

    run(bundle, host=host, port=port, settings=settings, withdrawn=withdrawn, workers=workers, handed=socket)
