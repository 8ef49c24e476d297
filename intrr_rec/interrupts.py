"""Ctrl-C in the command line: one line and exit code 130 at any time, whatever a library makes of the interrupt.

Imported before all else, so only what the interpreter has loaded by then is imported here.
"""

from __future__ import annotations

import os
import signal
import sys

from intrr_rec.errors import INTERRUPTED

TYPE_CHECKING = False  # as in typing, whose import takes milliseconds
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

HERE = f"{os.path.dirname(__file__)}{os.sep}"  # noqa: PTH120 pathlib is not loaded yet
VERBS = (f"{HERE}cli{os.sep}", f"{HERE}__main__.py")
IMPORTING = "<frozen importlib._bootstrap>"
AGAIN_AFTER = 0.05  # seconds
_raised = False


def watch() -> None:
    """Take over SIGINT, unless a launcher or a shell has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable


def let_go() -> None:
    """Give SIGINT back to the system: a verb is over, and the interpreter's own end would answer with a traceback."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raised() -> bool:
    """Whether the process was interrupted: an error after that is what a library made of it."""
    return _raised


def leave() -> NoReturn:
    """End the process at once, interrupted, where it has begun nothing."""
    os.write(2, f"intrr: {INTERRUPTED}\n".encode())
    os._exit(130)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    global _raised
    # Packages that try their imports take an interrupt within one for a missing module, and fail later for want of it.
    importer = None
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            importer = frame.f_back
        frame = frame.f_back
    if importer is None:
        _raised = True
        raise KeyboardInterrupt
    if importer.f_code.co_filename.startswith(VERBS):  # a verb's own imports: it has begun nothing
        leave()
    _again()


def _unraisable(found: Any) -> None:
    """Raise an interrupt anew that came while a destructor or a callback ran, which can only print and drop it."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        _again()
    else:
        sys.__unraisablehook__(found)


def _again() -> None:
    from threading import Timer

    timer = Timer(AGAIN_AFTER, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True  # else the end of the interpreter would wait for it
    timer.start()
