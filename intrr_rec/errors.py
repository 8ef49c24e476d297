"""The one family of errors a user can cause.

Each carries a single line that says what is wrong, where (file, column, row, key) and how to fix it. The command line
prints that line and leaves with exit code 2; a traceback means a fault of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable

INTERRUPTED = "interrupted; nothing half-written was left behind"  # what Ctrl-C ends with, and exit code 130


class UserError(Exception):
    """A mistake in what the user gave us. The message is one line."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(UserError):
    """A setting that is unknown, ill-typed or out of range."""


class DataError(UserError):
    """An input file, column, row or value that cannot be used."""


class ArtefactError(UserError):
    """A folder of ours that is missing, incomplete, altered or built from something else."""


class PlaceError(UserError):
    """A place that cannot be written: full, read-only, another's, or at the end of a broken link."""


class OutOfMemoryError(UserError):
    """Memory ran out, of the processor or of a GPU."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name among `known` that `word` may be a slip of, capitals aside; None where none is near.

    Every "did you mean" asks here, so none names something that has nothing to do with what was typed.
    """
    import difflib  # takes milliseconds, in which Ctrl-C would not be looked after yet

    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def instead(word: str, known: Iterable[str], section: str = "") -> str:
    """How a message about an unknown `word` ends: "; did you mean …?", or, where no name is near, the names there are.

    Args:
        section: what stands before each name, such as `train.`.
    """
    known = list(known)
    near = nearest(word, known)
    if near is not None:
        return f"; did you mean '{section}{near}'?"
    return f"; there are {', '.join(section + name for name in known)}" if known else ""


class TrainingError(UserError):
    """A run that cannot go on: its loss or weights are no longer finite numbers."""


class Stopped(BaseException):
    """A run ended before its time, and the same command goes on: no error, so nothing that catches errors takes it for one.

    Args:
        message: the line for the user; empty on a rank that leaves the word to another.
        exit_code: of the process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
