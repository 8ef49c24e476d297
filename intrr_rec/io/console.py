"""What a person at a terminal is shown: on in the command line, off in a program that imports the package."""

from __future__ import annotations

from typing import Any

from rich.console import Console

_shown = False


def show_to_people() -> None:
    """From now on tables and progress bars are shown; the command line calls this."""
    global _shown
    _shown = True


def console(**options: Any) -> Console:
    """Where to print a table or a line for a person; quiet until `show_to_people`."""
    return Console(quiet=not _shown, **options)


def shows_bars() -> bool:
    """Whether someone is looking at a progress bar."""
    return _shown and Console(stderr=True).is_terminal
