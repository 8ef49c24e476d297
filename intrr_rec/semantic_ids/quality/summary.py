"""What `intrr index` says at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from intrr_rec.io.console import console


def show_quality(quality: Mapping[str, Any], out: Path) -> None:
    """Print the table of levels, the collisions and how to see more, on standard error."""
    table = Table(title=f"Semantic IDs of {quality['items']:,} items")
    for heading in ("level", "codes used", "entropy / ln K", "perplexity", "Gini", "error left"):
        table.add_column(heading, justify="right")
    for number, level in enumerate(quality["levels"], start=1):
        table.add_row(
            str(number),
            f"{level['used']}/{level['codes']}",
            f"{level['entropy_ratio']:.3f}",
            f"{level['perplexity']:.1f}",
            f"{level['gini']:.3f}",
            f"{level['relative_error']:.3f}",
        )
    screen = console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    screen.print(table)
    screen.print(f"near neighbours share a prefix: {_levels(quality['neighbour_purity'])}")
    if quality["category_purity"]:
        screen.print(f"items of a prefix share its main category: {_levels(quality['category_purity'])}")
    collisions = quality["collisions"]
    screen.print(
        f"{collisions['distinct_sids']:,} distinct Semantic IDs ({collisions['distinct_rate']:.1%} of items); "
        f"{collisions['rate']:.1%} of items share one, {collisions['largest']} at most → {out}"
    )
    screen.print(f"pictures: intrr report --semantic-ids {out} --dataset DIR", style="dim")


def _levels(purity: Sequence[Mapping[str, float]]) -> str:
    shares, chances = (" / ".join(f"{level[key]:.1%}" for level in purity) for key in ("share", "chance"))
    return f"{shares} at levels 1-{len(purity)} (by chance {chances})"


def show_growth(version: int, drift: Mapping[str, Any], retired: int) -> None:
    """Print what an extension did, and whether a re-index is due, on standard error."""
    newcomers = drift["groups"]["newcomers"]
    screen = console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    screen.print(f"version {version}: {newcomers['items'] if newcomers else 0:,} new items, {retired:,} retired in all")
    screen.print(drift["verdict"], style="bold yellow" if drift["due"] else None)
