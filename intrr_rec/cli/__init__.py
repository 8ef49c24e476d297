"""The door: every `intrr` verb, each a thin call into the package that does the work.

Heavy imports (torch, torchrec) happen inside the verbs, so that `intrr --help` and a mistyped option answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from intrr_rec import __version__, interrupts
from intrr_rec.cli.cluster import pipeline, runs, tune
from intrr_rec.cli.indexing import concat_vectors, embed, index, inspect_ids
from intrr_rec.cli.logs import describe, fetch, generate, prepare, validate
from intrr_rec.cli.process.errors import run_verbs
from intrr_rec.cli.process.leaving import leave_quietly
from intrr_rec.cli.process.order import arrange
from intrr_rec.cli.promotion import promote, rollback
from intrr_rec.cli.serving import export, recommend, serve
from intrr_rec.cli.settings import settings
from intrr_rec.cli.training import compare, evaluate, plan, report, train
from intrr_rec.io.console import PlainFormatter, show_to_people
from intrr_rec.io.stores.scratch import Renaming

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
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


app.command()(generate)
app.command()(fetch)
app.command()(prepare)
app.command()(validate)
app.command()(embed)
app.command("concat-vectors")(concat_vectors)
app.command()(index)
app.command("inspect-ids")(inspect_ids)
app.command()(train)
app.command()(plan)
app.command()(evaluate)
app.command()(report)
app.command()(compare)
app.command()(pipeline)
app.command()(tune)
app.command()(runs)


for verb in (describe, export, recommend, promote, rollback, serve, settings):
    app.command()(verb)


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
    """Run the verbs of `verbs` and exit; whatever ends one is one line on stderr and an exit code, see `cli/process/errors.py`."""
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
