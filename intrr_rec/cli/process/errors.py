"""How a verb ends: in one line on standard error and an exit code, whatever stopped it; a traceback means a fault of ours.

Here are also the streams that a line is written to, and the check that an option of a path was not given a URL.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from intrr_rec import interrupts
from intrr_rec.cli.options import NEW_FILE, NEW_FOLDER
from intrr_rec.cli.process.memory import require_address_space
from intrr_rec.cli.process.urls import require_openable, stage
from intrr_rec.errors import INTERRUPTED, OutOfMemoryError, Stopped, UserError
from intrr_rec.io.console import plain
from intrr_rec.io.disk.places import number_of, trouble, url_of
from intrr_rec.io.disk.room import require_room, require_writable
from intrr_rec.io.misfit import forget_read, misfit
from intrr_rec.io.stores.scratch import in_words

log = logging.getLogger("intrr_rec")
# What our texts use beyond ASCII, for terminals and pipes of other encodings.
_PLAIN = {
    **{"→": "->", "←": "<-", "↔": "<->", "…": "...", "×": "x", "–": "-", "—": "-", "−": "-", "·": "*", "’": "'"},
    **{
        "“": '"',
        "”": '"',
        "≤": "<=",
        "≥": ">=",
        "⁸": "^8",
        "²": "^2",
        "•": "*",
        "✓": "ok",
        "│": "|",
        "─": "-",
        "━": "-",
    },
    **{"═": "=", "║": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "┏": "+", "┓": "+", "┗": "+", "┛": "+", "┃": "|"},
    **{"┡": "+", "┩": "+", "╇": "+", "┳": "+", "┴": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┼": "+", "╸": "-"},
    **{"╺": "-", "█": "#", "∈": "in", "∝": "~", "∞": "inf", "≈": "~", "°": " deg", "✔": "+", "✘": "x"},
}
_HANDLER = "intrr-plain"
LESS_MEMORY = {
    "generate": "fewer --users or --items, or a smaller --dimension",
    "prepare": "--memory-gb says what DuckDB may take: less where the machine has less, more where its own limit was met",
    "validate": "give the process more memory, or validate a part of the logs",
    "embed": "a smaller --batch or --shard-rows",
    "concat-vectors": "fewer parts at once, or a smaller type by --storage float16",
    "index": "a smaller index.sample, or fewer index.codes",
    "train": "a smaller train.batch_users or batch_tokens, a larger train.accumulate, or more ranks",
    "evaluate": "a smaller evaluate.batch_users or evaluate.beam",
    "export": "a smaller type by --rows bfloat16 or int8, or more ranks",
    "recommend": "a smaller --batch, --shard-users or --beam",
    "serve": "a bundle exported with --rows int8, or a smaller serve.batch or serve.beam",
}


_WRITTEN = {NEW_FILE: require_writable, NEW_FOLDER: require_room}


class Verb(TyperCommand):
    """A command that refuses before any work a place that it could not write to after it, and works on URLs by `io.stores`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb.

        Raises:
            ConfigError: a URL that no store answers to, or where only a path can be.
            PlaceError: what an option names as NEW_FILE or NEW_FOLDER cannot be written.
        """
        from intrr_rec.io.stores.staging import staged  # not for `--help`

        verb = self.name or ""
        require_openable(verb, self.params, ctx.params)
        require_address_space(verb)
        for param in self.params:
            place = ctx.params.get(param.name)
            is_written = param.param_type_name == "option" and param.metavar in _WRITTEN
            if is_written and param.metavar and isinstance(place, Path) and url_of(place) is None:
                _WRITTEN[param.metavar](place)
        with staged() as places:
            stage(verb, self.params, ctx.params, places)
            return super().invoke(ctx)


def run_verbs(verbs: typer.Typer, program: str) -> int:
    """Run the command line; whatever ends it becomes one line, and the exit code returned.

    A UserError, a place that cannot be written and memory that ran out give 2, a Stopped its own code, Ctrl-C 130.
    """
    forget_read()
    _open_closed_streams()
    _speak_any_encoding()
    for info in verbs.registered_commands:
        info.cls = info.cls if info.cls is not None and issubclass(info.cls, Verb) else Verb
    try:
        # Typer hands back the code of a typer.Exit, and 130 for an interrupt, instead of raising them.
        code = verbs(prog_name=program, standalone_mode=False) or 0
        sys.stdout.flush()
    except Stopped as stop:
        return complain(str(stop), stop.exit_code) if str(stop) else stop.exit_code
    except Exception as error:
        if not interrupts.raised():  # else it is what a library made of Ctrl-C
            return _ended_by(error)
        code = 130
    if code == 130:
        complain(INTERRUPTED, code)
    return int(code)


def _ended_by(error: Exception) -> int:
    """Say what ended a verb in one line; a fault that can only be ours is raised on."""
    if isinstance(error, UserError):
        return complain(_with_fix(error), error.exit_code)
    if isinstance(error, typer.TyperException):
        return complain(error.format_message(), 2)
    if isinstance(error, BrokenPipeError):  # the reader of our output has had enough, as in `intrr runs | head`
        _close_stdout()
        return 141
    found = _output_is_full(error) or trouble(error, fix="make room there, or choose another place") or misfit(error)
    if found is None:
        raise error
    log.debug("%s", found, exc_info=True)
    return complain(_with_fix(found), found.exit_code)


def complain(message: str, code: int) -> int:
    """Print the line and hand the code back; what a file put into it moves no cursor and begins no line."""
    message = plain(message)
    with contextlib.suppress(OSError):  # a full standard error: the exit code speaks
        print(f"intrr: {in_words(message)}", file=sys.stderr)
    if reply := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # torchrun's report, the last thing in a job's log, then ends with this line, not with advice on tracebacks.
        said = {"message": f"intrr: {message}", "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(reply).write_text(json.dumps({"message": said}), encoding="utf-8")
    return code


def _with_fix(error: UserError) -> str:
    """The message; where memory ran out, with what lowers the need of the verb."""
    if not isinstance(error, OutOfMemoryError):
        return str(error)
    verb = next((word for word in sys.argv[1:] if word in LESS_MEMORY), "")
    return f"{error}; {LESS_MEMORY.get(verb, 'give the process more memory')}"


def _output_is_full(error: Exception) -> UserError | None:
    """The error of a standard output that takes nothing more, which names no file."""
    if number_of(error) != errno.ENOSPC or getattr(error, "filename", None) is not None:
        return None
    try:
        sys.stdout.flush()
        os.write(
            sys.stdout.fileno(), b"\n"
        )  # what was printed may be gone with the error, so that nothing is left to flush
    except OSError:
        _close_stdout()
        return UserError("standard output: cannot be written: the disk is full; free some space")
    return None


def _close_stdout() -> None:
    """Have the interpreter's last flush go nowhere, instead of failing once more with a message of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Have the three standard streams lead nowhere where they are closed: a file would else get their number, and our lines."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _speak_any_encoding() -> None:
    """Write what a stream's encoding lacks in plain letters, so that no text ends a verb."""
    codecs.register_error(_HANDLER, _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None and stream.errors != _HANDLER:
            reconfigure(errors=_HANDLER)


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in text), error.end
