"""What a person at a terminal is shown: on in the command line, off in a program that imports the package."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from intrr_rec.io.stores.scratch import in_words

_shown = False


def plain(text: str) -> str:
    """A text of others for one line of a terminal: signs that would move its cursor or begin a line are replaced."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else " " if sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text
    )


class PlainConsole(Console):
    """Prints what a file says as text: no sequence in it reaches the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich's."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control or text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(plain, text.split("\n"))), style)


class PlainFormatter(logging.Formatter):
    """Log lines: whatever a file put into a message begins no line of the log; the further lines of a message are set in."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As the standard library's."""
        record.message = "\n  ".join(map(plain, record.message.split("\n")))
        return super().formatMessage(record)


def say(text: object, *, err: bool = False, lines: bool = False) -> None:
    """Write a line of a verb's own to standard output: paths and names in it move no cursor, and stand for URLs.

    Args:
        err: to standard error.
        lines: the text is several lines, and ends as it is.
    """
    words = in_words(str(text))
    shown = "\n".join(map(plain, words.split("\n"))) if lines else plain(words)
    print(shown, file=sys.stderr if err else sys.stdout, end="" if lines else "\n")


def show_to_people() -> None:
    """From now on tables and progress bars are shown; the command line calls this."""
    global _shown
    _shown = True


class _Console(PlainConsole):
    """Says URLs in place of the paths that stand for them."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(in_words(each) if isinstance(each, str) else each for each in objects), **options)


def console(**options: Any) -> Console:
    """Where to print a table or a line for a person; quiet until `show_to_people`."""
    return _Console(quiet=not _shown, **options)


def shows_bars() -> bool:
    """Whether someone is looking at a progress bar."""
    return _shown and Console(stderr=True).is_terminal
