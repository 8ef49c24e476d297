"""Sections of a Markdown page that a measurement writes, between `<!-- NAME -->` and `<!-- end of NAME -->`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.atomic import write_text


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def write_section(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put `lines` in place of what the section holds.

    Raises:
        ConfigError: there is no such page, or no such section in it.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text() if page.is_file() else ""
    before, opened, rest = text.partition(first)
    _, closed, after = rest.partition(last)
    if not opened or not closed:
        raise ConfigError(f"--page {page}: has no lines {first} and {last} to write between")
    write_text(page, before + first + "\n" + "\n".join(lines) + "\n" + last + after)
