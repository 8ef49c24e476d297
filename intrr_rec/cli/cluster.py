"""Verbs of jobs and runs: `intrr pipeline`, `intrr tune`, `intrr runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intrr_rec.cli.process.closing import close, command


def pipeline(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Pipeline file (YAML); see docs/cluster.md.")],
    status: Annotated[bool, typer.Option("--status", help="Show how far the stages are; start nothing.")] = False,
) -> None:
    """Prepare → index → train → evaluate → export as jobs of one scheduler, or a day of it; what is up to date is skipped."""
    from intrr_rec.pipeline.run import run_pipeline

    run_pipeline(file, show=status)


def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML); see docs/tuning.md.")],
    status: Annotated[bool, typer.Option("--status", help="Show the trials so far; start nothing.")] = False,
) -> None:
    """Search for a better recipe by Optuna: trials are training jobs of one scheduler; what was killed goes on."""
    from intrr_rec.pipeline.tuning.search import BEST
    from intrr_rec.pipeline.tuning.search import tune as search

    best = search(file, show=status)
    if best is not None and not status:
        recipe = best.parents[1] / BEST
        close(command("report", "--run", best), command("train", "--config", recipe, "..."), lies=recipe)


def runs(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Where to look; here.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask the schedulers how the jobs of unfinished runs are.")] = False,
) -> None:
    """List the run folders below FOLDER: state, best figures, job, place; newest first."""
    from intrr_rec.pipeline.listing import list_runs

    list_runs(folders or [Path()], ask=ask)
