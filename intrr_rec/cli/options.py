"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from intrr_rec.config import Recipe

# What an option is for that names something a verb writes: whether it can be is known before the verb begins.
NEW_FILE, NEW_FOLDER = "FILE", "FOLDER"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Recipe: a YAML file, or the name of one of ours (best); what it does not name is the paper's."
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings to override.")]
Out = Annotated[
    Path,
    typer.Option("--out", metavar=NEW_FOLDER, help="Folder to write; an artefact of the same kind there is replaced."),
]
DatasetDir = Annotated[Path, typer.Option("--dataset", help="Dataset artefact written by `intrr prepare`.")]
DatasetPlace = Annotated[
    str, typer.Option("--dataset", help="Dataset artefact, or its URL in an object store (s3://…).")
]
SemanticIdsDir = Annotated[Path, typer.Option("--semantic-ids", help="Artefact written by `intrr index`.")]
Vectors = Annotated[Path | None, typer.Option("--vectors", help="Item vectors, for `model.content`.")]
Described = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DESCRIPTOR] [SECTION.KEY=VALUE]...", help="datasets/*.yaml, and settings to override."),
]
Interactions = Annotated[
    list[Path] | None,
    typer.Option("--interactions", help="Parquet, CSV or JSON lines, where there is no descriptor; repeatable."),
]
ItemTable = Annotated[Path | None, typer.Option("--items", help="Item table: item id, free columns, text.")]
UserTable = Annotated[
    Path | None, typer.Option("--users", help="User table: user id, columns of prepare.features.user.")
]
Data = Annotated[Path, typer.Option("--data", help="Folder of the files that the descriptor names.")]
EngineName = Annotated[
    Literal["duckdb", "spark"],
    typer.Option("--engine", help="Engine that runs the preparation; the output is identical."),
]
Master = Annotated[str, typer.Option("--master", help="Of Spark; executors must see the logs and the folder of --out.")]
MemoryGb = Annotated[
    float, typer.Option("--memory-gb", min=0.5, help="DuckDB spills to disk above it; the heap of Spark's driver.")
]


def recipe_of(config: Path | None, overrides: list[str] | None) -> Recipe:
    """The settings a verb was given."""
    from intrr_rec.config import load_recipe  # not for `--help`: it takes a tenth of a second

    return load_recipe(config, overrides or ())
