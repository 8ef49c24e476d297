"""The verbs of raw logs, which are given by a descriptor or file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intrr_rec.cli.options import (
    NEW_FILE,
    Config,
    Data,
    Described,
    EngineName,
    Interactions,
    ItemTable,
    Master,
    MemoryGb,
    Out,
    UserTable,
)
from intrr_rec.cli.process.closing import beside, close, command
from intrr_rec.errors import ConfigError
from intrr_rec.io.console import say

if TYPE_CHECKING:
    from intrr_rec.config import PrepareConfig


def describe(
    logs: Annotated[
        Path, typer.Argument(metavar="LOGS", help="Interaction log: Parquet, CSV or JSON lines, or a folder.")
    ],
    items: Annotated[Path | None, typer.Argument(metavar="[ITEMS]", help="Item table.")] = None,
    users: Annotated[Path | None, typer.Argument(metavar="[USERS]", help="User table.")] = None,
) -> None:
    """Raw tables → a proposed descriptor with a schema of features (docs/features.md), on standard output."""
    from intrr_rec.data.raw.describe import propose

    say(propose(logs, items, users), lines=True)


@dataclass(frozen=True)
class Logs:
    """Raw logs, their item and user tables, a name, and how they are prepared."""

    name: str
    interactions: tuple[Path, ...]
    items: Path | None
    settings: PrepareConfig
    users: Path | None = None


def given_logs(
    words: Sequence[str],
    interactions: Sequence[Path],
    items: Path | None,
    data: Path,
    config: Path | None,
    users: Path | None = None,
) -> Logs:
    """The logs of the descriptor among `words`, below `data`, or else `interactions`, `items` and `users`.

    The descriptor's own settings give way to those of the recipe `config`, and these to the other words.

    Raises:
        ConfigError: neither or both are given, or the descriptor or a setting cannot be read.
        DataError: a file that the descriptor names is not there.
    """
    from intrr_rec.config import load_recipe

    descriptors = [word for word in words if word.endswith((".yaml", ".yml")) and "=" not in word]
    overrides = [word for word in words if word not in descriptors]
    if len(descriptors) + bool(interactions) != 1:
        raise ConfigError("give either one descriptor (datasets/*.yaml) or --interactions FILE")
    if interactions:
        return Logs(interactions[0].name, tuple(interactions), items, load_recipe(config, overrides).prepare, users)
    from intrr_rec.data.raw.descriptors import find_tables, load_descriptor

    path = Path(descriptors[0])
    descriptor = load_descriptor(path)
    settings = load_recipe(config, overrides, under=(path, {"prepare": descriptor.prepare})).prepare
    found = find_tables(descriptor, path, data)
    return Logs(path.stem, found.interactions, items or found.items, settings, users or found.users)


def generate(
    out: Out,
    users: Annotated[int, typer.Option(min=1)] = 6_000,
    items: Annotated[int, typer.Option(min=10)] = 2_000,
    events_per_user: Annotated[int, typer.Option(min=1, help="Mean length of a history.")] = 12,
    dimension: Annotated[int, typer.Option(min=1, help="Width of an item's vector.")] = 64,
    seed: int = 0,
    features: Annotated[
        bool, typer.Option("--features", help="Also write features of events, items and users (docs/features.md).")
    ] = False,
    signal: Annotated[
        list[str] | None,
        typer.Option(help="Feature that the next item depends on: action, context, item or user; may be repeated."),
    ] = None,
    returns: Annotated[
        str | None, typer.Option(help="How users return to items they had: soon, often, periodic, late or mixed.")
    ] = None,
) -> None:
    """Write a synthetic catalogue, its vectors and its logs: streamed, so any size up to 10⁸ items fits in memory."""
    from intrr_rec.data.synthetic.generator import generate_logs

    sizes = {"n_users": users, "n_items": items, "events_per_user": events_per_user, "dimension": dimension}
    generate_logs(out, **sizes, seed=seed, features=features, signals=signal or (), returns=returns)


def fetch(
    descriptor: Annotated[Path, typer.Argument(metavar="DESCRIPTOR", help="datasets/*.yaml")],
    data: Data = Path("data"),
) -> None:
    """Bring the files a descriptor names: resumed, checked against their checksums, official formats made into tables."""
    from intrr_rec.data.raw.descriptors import load_descriptor
    from intrr_rec.data.raw.download import fetch as run

    for path in run(load_descriptor(descriptor), data):
        say(path)


def prepare(
    out: Out,
    words: Described = None,
    interactions: Interactions = None,
    items: ItemTable = None,
    users: UserTable = None,
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


def validate(
    words: Described = None,
    interactions: Interactions = None,
    items: ItemTable = None,
    users: UserTable = None,
    data: Data = Path("data"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar=NEW_FILE, help="Page to write; NAME.validation.html if left out.")
    ] = None,
    config: Config = None,
) -> None:
    """Raw logs → what is wrong with them, before anything is built: errors (exit code 2), warnings, distributions."""
    from intrr_rec.reporting.validation import validate as run

    logs = given_logs(words or (), interactions or (), items, data, config, users)
    page = out or Path(f"{logs.name}.validation.html")
    run(logs.name, logs.interactions, logs.items, logs.settings, page, users=logs.users)
