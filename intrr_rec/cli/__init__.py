"""The door: every `intrr` verb, each a thin call into the package that does the work.

Heavy imports (torch, torchrec) happen inside the verbs, so that `intrr --help` and a mistyped option answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from intrr_rec import __version__, interrupts
from intrr_rec.cli.closing import beside, close, command
from intrr_rec.cli.cluster import pipeline, runs
from intrr_rec.cli.errors import run_verbs
from intrr_rec.cli.leaving import leave_quietly
from intrr_rec.cli.logs import describe
from intrr_rec.cli.options import (
    NEW_FILE,
    NEW_FOLDER,
    Config,
    Data,
    DatasetDir,
    DatasetPlace,
    Described,
    EngineName,
    Interactions,
    Master,
    MemoryGb,
    Out,
    Overrides,
    SemanticIdsDir,
    Vectors,
    recipe_of,
)
from intrr_rec.cli.order import arrange
from intrr_rec.cli.promotion import promote, rollback
from intrr_rec.cli.serving import export, recommend, serve
from intrr_rec.errors import ConfigError
from intrr_rec.io.console import PlainFormatter, show_to_people
from intrr_rec.io.storage import location
from intrr_rec.io.stores.scratch import Renaming, in_words
from intrr_rec.io.stores.staging import staged

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"intrr_rec {__version__}")
        raise typer.Exit


@app.callback()
def door(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Generative recommendation with IntRR: raw logs → Semantic IDs → sharded training → trie-constrained decoding."""


app.command()(pipeline)
app.command()(runs)


@app.command()
def generate(
    out: Out,
    users: Annotated[int, typer.Option(min=1)] = 6_000,
    items: Annotated[int, typer.Option(min=10)] = 2_000,
    events_per_user: Annotated[int, typer.Option(min=1, help="Mean length of a history.")] = 12,
    dimension: Annotated[int, typer.Option(min=1, help="Width of an item's vector.")] = 64,
    seed: int = 0,
) -> None:
    """Write a synthetic catalogue, its vectors and its logs: streamed, so any size up to 10⁸ items fits in memory."""
    from intrr_rec.data.synthetic.generator import generate_logs

    generate_logs(out, n_users=users, n_items=items, seed=seed, events_per_user=events_per_user, dimension=dimension)


@app.command()
def fetch(
    descriptor: Annotated[Path, typer.Argument(metavar="DESCRIPTOR", help="datasets/*.yaml")],
    data: Data = Path("data"),
) -> None:
    """Bring the files a descriptor names: resumed, checked against their checksums, official formats made into tables."""
    from intrr_rec.data.raw.descriptors import load_descriptor
    from intrr_rec.data.raw.download import fetch as run

    for path in run(load_descriptor(descriptor), data):
        typer.echo(path)


@app.command()
def prepare(
    out: Out,
    words: Described = None,
    interactions: Interactions = None,
    items: Annotated[Path | None, typer.Option("--items", help="Item table: item id, free columns, text.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", help="User table: user id, columns of prepare.features.user.")
    ] = None,
    data: Data = Path("data"),
    engine: EngineName = "duckdb",
    master: Master = "local[*]",
    memory_gb: MemoryGb = 4.0,
    append: Annotated[
        bool, typer.Option("--append", help="Add the logs to the dataset at --out (prepare.keep_rows); numbers stay.")
    ] = False,
    config: Config = None,
) -> None:
    """Interaction logs → dataset artefact: validate, filter, stable time order, split, dense ids; on DuckDB or Spark."""
    from intrr_rec.cli.logs import given_logs
    from intrr_rec.data.prepare.engines import EngineChoice
    from intrr_rec.data.prepare.prepare import prepare_dataset

    logs = given_logs(words or (), interactions or (), items, data, config, users)
    choice = EngineChoice(engine, master, memory_gb)
    prepare_dataset(logs.interactions, logs.items, out, logs.settings, choice, append=append, users=logs.users)
    if not append:
        close(_after_prepare(out), lies=out)


def _after_prepare(dataset: Path) -> str:
    """The next command: of the item texts that the dataset has, or, where it has none, with vectors of one's own."""
    from intrr_rec.vectors.embed import text_columns

    texts = text_columns(dataset)
    if not texts:
        words = ("--vectors", "VECTORS", "--out", beside(dataset, "semantic_ids"))
        return command("index", "--dataset", dataset, *words)
    named = () if set(texts) & {"text", "title"} else ("--text-column", texts[0])
    return command("embed", "--dataset", dataset, *named, "--out", beside(dataset, "vectors"))


@app.command()
def validate(
    words: Described = None,
    interactions: Interactions = None,
    items: Annotated[Path | None, typer.Option("--items", help="Item table: item id, free columns, text.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", help="User table: user id, columns of prepare.features.user.")
    ] = None,
    data: Data = Path("data"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar=NEW_FILE, help="Page to write; NAME.validation.html if left out.")
    ] = None,
    config: Config = None,
) -> None:
    """Raw logs → what is wrong with them, before anything is built: errors (exit code 2), warnings, distributions."""
    from intrr_rec.cli.logs import given_logs
    from intrr_rec.reporting.validation import validate as run

    logs = given_logs(words or (), interactions or (), items, data, config, users)
    page = out or Path(f"{logs.name}.validation.html")
    run(logs.name, logs.interactions, logs.items, logs.settings, page, users=logs.users)


@app.command()
def embed(
    dataset: DatasetDir,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option("--model", help="sentence-transformers folder or hub name; all-MiniLM-L6-v2 if left out."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the item table; without text there, the title.")] = "text",
    batch: Annotated[int, typer.Option(min=1, help="Texts encoded together.")] = 16,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where the processor computes it natively.")
    ] = "auto",
    shard_rows: Annotated[int, typer.Option(min=1, help="Items a file, and what a killed job may lose.")] = 8_192,
    storage: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the vectors on disk.")] = "float16",
) -> None:
    """Item texts → vectors artefact, by a sentence encoder; goes on where a killed run of the same job stopped."""
    from intrr_rec.vectors.embed import EmbedSettings, embed_dataset
    from intrr_rec.vectors.encoder import DEFAULT_MODEL, SentenceEncoder

    encoder = SentenceEncoder(model or DEFAULT_MODEL, precision)
    embed_dataset(dataset, out, encoder, EmbedSettings(text_column, batch, shard_rows, storage))
    close(command("index", "--dataset", dataset, "--vectors", out, "--out", beside(out, "semantic_ids")))


@app.command("concat-vectors")
def concat_vectors(
    dataset: DatasetDir,
    vectors: Annotated[
        list[str],
        typer.Option("--vectors", help="NAME=PATH[:COLUMN]: Parquet, a folder of shards, or .npy; repeatable."),
    ],
    out: Out,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="NAME=NUMBER, 1 if left out; repeatable.")
    ] = None,
    storage: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the vectors on disk.")] = "float16",
) -> None:
    """Several vectors an item (text, image, behaviour) → one vectors artefact: each L2-normalised, weighed, concatenated."""
    from intrr_rec.vectors.concat import concat_vectors as run
    from intrr_rec.vectors.concat import parse_parts

    run(dataset, out, parse_parts(vectors, weight or ()), storage)


@app.command()
def index(
    dataset: DatasetDir,
    vectors: Annotated[Path, typer.Option("--vectors", help="Parquet with item_id and embedding (fixed-size list).")],
    out: Out,
    extend: Annotated[
        Path | None,
        typer.Option("--extend", help="Version to extend: its codebooks and published ids stay, new items get ids."),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Item vectors → semantic ids artefact: codebooks, de-duplication digit, prefix trie, quality figures (Stage 1)."""
    settings = recipe_of(config, overrides).index
    if extend:
        from intrr_rec.semantic_ids.extend import extend_semantic_ids

        extend_semantic_ids(extend, dataset, vectors, out, settings)
        return
    from intrr_rec.semantic_ids.build import build_semantic_ids

    build_semantic_ids(dataset, vectors, out, settings)
    inputs = ("--dataset", dataset, "--semantic-ids", out, "--vectors", vectors)
    close(command("train", *inputs, "--out", "runs/first", "--config", "best"))


@app.command("inspect-ids")
def inspect_ids(
    semantic_ids: SemanticIdsDir,
    dataset: DatasetDir,
    item: Annotated[
        str | None, typer.Option("--item", help="An item's own id: whom it shares each prefix with.")
    ] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Codes such as 12,7: what lies below them.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Titles shown in one place.")] = 5,
) -> None:
    """Show the titles that share an item's prefixes, level by level, or those below a prefix."""
    from intrr_rec.semantic_ids.inspect import print_ids

    print_ids(semantic_ids, dataset, item=item, prefix=prefix, show=show)


@app.command()
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
    from intrr_rec.training.trainer import train as run

    recipe, place = recipe_of(config, overrides), location(dataset)
    run(recipe, dataset=place, semantic_ids=semantic_ids, vectors=vectors, out=out, init_from=init_from)
    close(command("report", "--run", out), command("export", out, "--out", f"{out}-bundle"), lies=out)


@app.command()
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
    from intrr_rec.distributed.planner.dry_run import plan_ahead

    plan_ahead(
        recipe_of(config, overrides),
        items=items,
        ranks=ranks,
        local_ranks=local_ranks,
        device=device,
        memory_gb=memory_gb,
        content_width=content_width,
        out=out,
    )


@app.command()
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
    from intrr_rec.evaluation.results import evaluate_run

    words = words or []
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in words if word not in folders]
    if len(folders) + (run is not None) != 1:
        raise ConfigError("evaluate: give one run folder, as RUN or as --run RUN")
    with staged() as places:
        evaluate_run(run or places.run(folders[0], write=True), overrides)


for verb in (describe, export, recommend, promote, rollback, serve):
    app.command()(verb)


@app.command()
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

        typer.echo(in_words(str(write_report(run))))
    elif semantic_ids and dataset and not run:
        from intrr_rec.reporting.index_report import write_index_report

        typer.echo(in_words(str(write_index_report(semantic_ids, dataset))))
    else:
        raise ConfigError("report: give either --run DIR, or --semantic-ids DIR and --dataset DIR")


@app.command()
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
        from intrr_rec.promotion.compare_on import compare_on

        if against:
            raise ConfigError("compare --on: takes no --against; give every run or bundle as --run, the first is A")
        compare_on(location(on), run, seed, out)
        return
    from intrr_rec.evaluation.compare import compare_runs

    compare_runs(run, against or (), seed, out)


@app.command()
def doctor() -> None:
    """Check the installation: versions, a sharded lookup, and the command that fixes what is off."""
    from intrr_rec.doctor import diagnose

    raise typer.Exit(diagnose())


arrange(app)


def main() -> None:
    """Run the command line `intrr`."""
    run_app(app, "intrr")


def run_app(verbs: typer.Typer, program: str) -> None:
    """Run the verbs of `verbs` and exit; whatever ends one is one line on stderr and an exit code, see `cli/errors.py`."""
    interrupts.watch()
    show_to_people()
    leave_quietly()
    logging.basicConfig(level=logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("intrr_rec").setLevel(os.environ.get("INTRR_LOG", "INFO"))
    for handler in logging.getLogger().handlers:
        handler.addFilter(Renaming())
    # torchrec and torch announce deprecations of their own doing on every start; none of them is the user's to fix.
    for name in ("torch", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"torch")
    code = run_verbs(verbs, program)
    interrupts.let_go()
    sys.exit(code)


__all__ = ["__version__", "app", "main", "run_app"]
