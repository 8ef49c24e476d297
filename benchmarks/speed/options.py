"""The command line that benchmarks join, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(
    help="Measure this machine with the project's own benchmarks.", no_args_is_help=True, pretty_exceptions_enable=False
)

Out = Annotated[Path, typer.Option("--out", help="JSON file to write the figures to.")]
Page = Annotated[
    Path | None, typer.Option("--page", help="Markdown file whose section of this benchmark is written anew.")
]
