"""The verb that lists settings."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def settings(
    section: Annotated[
        str | None,
        typer.Argument(metavar="[SECTION]", help="Such as train, model.hstu or train.epochs; all if left out."),
    ] = None,
) -> None:
    """List every setting with its type, its default (the paper's) and its meaning."""
    from rich.table import Table

    from intrr_rec.config.listing import settings_of
    from intrr_rec.io.console import console

    table = Table("setting", "type", "default", "meaning", show_lines=sys.stdout.isatty())
    for each in settings_of(section):
        table.add_row(each.key, each.type, each.default, each.meaning)
    # In a file or a pipe nothing is broken over lines.
    console(width=None if sys.stdout.isatty() else 1000, markup=False).print(table)
