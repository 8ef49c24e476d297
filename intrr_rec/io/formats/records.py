"""JSON that others may have written: bounded, strict, typed; and sealed, where no manifest covers the file.

A sealed file carries the SHA-256 of its own content: JSON under the key "sha256", any other text in its first line. A change of its
content is refused; a change of white space of JSON, which no reader sees, is not.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from intrr_rec.errors import ArtefactError
from intrr_rec.io.misfit import note_read

Record = TypeVar("Record", bound=BaseModel)
SEAL = "sha256"
TEXT_SEAL = "# sha256: "  # begins a text that is sealed
LARGEST = 1 << 26  # bytes of a JSON file
DEEPEST = 64  # levels of lists and objects in one another
WIDEST = 1 << 63  # beyond any integer that is read


def parse_json(text: bytes | str, where: str, fix: str) -> Any:
    """The value of a JSON text.

    Args:
        text: at most `LARGEST` bytes.
        where: what the text is, for an error message: a file, or a file and its line.
        fix: ends the error message.

    Raises:
        ArtefactError: not UTF-8, not JSON, a key twice in one object, too large, too deep, or a number out of range.
    """
    if len(text) > LARGEST:
        raise ArtefactError(f"{where}: is larger than {LARGEST >> 20} MB; {fix}")
    try:
        words = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(words, object_pairs_hook=_object, parse_constant=_no_constant)
        _require_bounded(value)
    except RecursionError:
        raise ArtefactError(f"{where}: is nested too deeply; {fix}") from None
    except ValueError as error:
        raise ArtefactError(f"{where}: is not JSON ({error}); {fix}") from None
    return value


def as_record(value: Any, kind: type[Record], where: str, fix: str) -> Record:
    """A value from JSON as `kind`.

    Raises:
        ArtefactError: it does not fit; the first field that does not is named.
    """
    try:
        return kind.model_validate(value)
    except RecursionError:
        raise ArtefactError(f"{where}: is nested too deeply; {fix}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ArtefactError(f"{where}: {field[:200]!r}: {first['msg'][:300]}; {fix}") from None


class _Texts(RootModel[dict[str, str]]):
    """An object of texts."""


def read_texts(path: Path, fix: str) -> dict[str, str]:
    """A sealed JSON file with an object of texts; empty where there is no such file.

    Raises:
        ArtefactError: it holds anything else, or was altered.
    """
    found = read_record(path, _Texts, fix)
    return {} if found is None else found.root


def sealed_text(text: str) -> str:
    """The text after a line with its seal, for `write_text`."""
    return f"{TEXT_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def unsealed_text(text: str) -> str | None:
    """What follows the seal; None where there is no seal, or another text than the one sealed."""
    rest = text.partition("\n")[2]
    return rest if text == sealed_text(rest) else None


def read_sealed_text(path: Path, fix: str) -> str | None:
    """The content of a sealed text file; None where there is none.

    Raises:
        ArtefactError: it cannot be read, has no seal, or was altered.
    """
    text = read_text(path)
    if text is None:
        return None
    found = unsealed_text(text)
    if found is None:
        raise ArtefactError(f"{path}: was altered after it was written (its first line does not fit the others); {fix}")
    return found


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its seal, for `write_json`."""
    body = json.loads(json.dumps(value, allow_nan=False))  # keys and numbers as the reader will find them
    return body | {SEAL: _digest(body)}


def unsealed(value: Any, where: str, fix: str) -> dict[str, Any]:
    """The content of a sealed object.

    Raises:
        ArtefactError: no object, no seal, or content that the seal does not fit.
    """
    if not isinstance(value, dict) or SEAL not in value:
        raise ArtefactError(f"{where}: has no '{SEAL}' of its content; {fix}")
    body = {key: each for key, each in value.items() if key != SEAL}
    if value[SEAL] != _digest(body):
        raise ArtefactError(f"{where}: was altered (its content does not fit its '{SEAL}'); {fix}")
    return body


def read_sealed(path: Path, fix: str) -> dict[str, Any] | None:
    """The content of a sealed JSON file; None where there is none.

    Raises:
        ArtefactError: it cannot be read, or was altered.
    """
    text = read_text(path)
    if text is None:
        return None
    found = unsealed(parse_json(text, str(path), fix), str(path), fix)
    note_read(path)
    return found


def read_record(path: Path, kind: type[Record], fix: str) -> Record | None:
    """A sealed JSON file as `kind`; None where there is none. `fix` ends the line of an error.

    Raises:
        ArtefactError: it cannot be read, was altered, or does not fit.
    """
    body = read_sealed(path, fix)
    return None if body is None else as_record(body, kind, str(path), fix)


def read_text(path: Path, largest: int = LARGEST) -> str | None:
    """A text file of at most `largest` bytes; None where there is none.

    Raises:
        ArtefactError: it cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise ArtefactError(f"{path}: is larger than {largest >> 20} MB; fix or remove it")
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); fix or remove it") from None


def shell_word(path: Path) -> str:
    """The path as one word of a command to copy."""
    return shlex.quote(str(path))


def _digest(body: Mapping[str, Any]) -> str:
    words = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(words.encode()).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _require_bounded(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, (dict, list)):
            if depth > DEEPEST:
                raise RecursionError
            waiting += [(each, depth + 1) for each in (found.values() if isinstance(found, dict) else found)]
        elif (isinstance(found, float) and not math.isfinite(found)) or (
            isinstance(found, int) and not -WIDEST <= found < WIDEST
        ):
            raise ValueError("a number is out of range")
