"""Files of figures, read as typed records."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from intrr_rec.errors import ArtefactError

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, kind: type[Record], mend: str) -> Record | None:
    """A JSON file as `kind`; None where there is none. `mend` ends the line of an error."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ArtefactError(f"{path}: '{where}': {first['msg']}; {mend}") from None
    except ValueError as error:
        raise ArtefactError(f"{path}: is not JSON ({error}); {mend}") from None


def read_text(path: Path) -> str | None:
    """A text file; None where there is none.

    Raises:
        ArtefactError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); mend or remove it") from None


def shell_word(path: Path) -> str:
    """The path as one word of a command to copy."""
    return shlex.quote(str(path))
