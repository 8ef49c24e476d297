"""The verbs that decide which bundle is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intrr_rec.cli.process.before import loading, require_artefact
from intrr_rec.cli.process.closing import close, command


def promote(
    candidate: Annotated[Path, typer.Argument(help="Bundle written by `intrr export`.")],
    over: Annotated[Path, typer.Option("--over", help="Registry: a folder or URL; a new one is made.")],
    on: Annotated[str, typer.Option("--on", help="Dataset whose test users both rank: the newest version.")],
    rule: Annotated[Path | None, typer.Option("--rule", help="Rule (YAML), such as configs/promotion.yaml.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Judge a bundle against the current one of a registry; make it the current one if the rule holds; write why."""
    from intrr_rec.config.promotion import load_rule
    from intrr_rec.io.stores.storage import location

    judged_by = load_rule(rule)
    require_artefact(on, "dataset")
    with loading():
        from intrr_rec.promotion.promote import promote as run

    decision = run(candidate, location(over), location(on), judged_by, seed)
    if decision.get("promoted"):
        close(command("serve", location(over)), command("rollback", location(over)))


def rollback(registry: Annotated[Path, typer.Argument(help="Registry that `intrr promote` wrote.")]) -> None:
    """Make the bundle before the current one of a registry the current one again; servers follow."""
    from intrr_rec.io.stores.storage import location
    from intrr_rec.promotion.promote import roll_back

    roll_back(location(registry))
