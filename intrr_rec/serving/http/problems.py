"""Refusals: every error is one line of JSON that repeats neither what was sent nor where the server's files are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS
from intrr_rec.serving.http.schemas import Filters, Group, HistoryEvent, Range, RecommendRequest

# The parts of a request that take keys, by the place that FastAPI names.
_PARTS: dict[tuple[str, ...], type[BaseModel]] = {(): RecommendRequest, ("filters",): Filters}
_TAKING: tuple[type[BaseModel], ...] = (*_PARTS.values(), Group, Range, HistoryEvent)
_NAMES = {"query", "limit", "item_id", *(name for part in _TAKING for name in part.model_fields)}
_CONDITIONS = {"where", "without", "ranges"}
_ABSOLUTE = re.compile(r"(?<![\w./])/\w")
_ID = f"text of at most {MAX_ID_CHARACTERS:,} characters, or a whole number of 64 bits"
_VALUE = "text, a number, true or false"
_SEE_LOG = "the server's log says why"


class Refused(HTTPException):
    """A request that is not answered: status, a reason in words, and headers to say it with."""


def problem(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is not answered otherwise."""
    clean = reason.encode("utf-8", "replace").decode()  # a lone surrogate has no place in an answer
    return JSONResponse({"error": clean}, status, headers)


def explain_invalid(error: RequestValidationError) -> str:
    """What is wrong with a request and where, in the server's own words.

    The place may hold keys that the client made up, so only names from the description and positions are told.
    """
    first = error.errors()[0]
    place = [part for part in first["loc"] if part != "body"]
    if place[:1] == ["history"] and place[1:2] in (["bare"], ["mixed"]):
        del place[1]  # the kind of list, which is not part of a request
    if first["type"] == "json_invalid":
        return "the body is not JSON"
    if not place and first["type"] in ("missing", "model_attributes_type"):  # no body, another type of body, or a list
        return "the body must be a JSON object, sent with the header Content-Type: application/json"
    if first["type"] == "extra_forbidden":
        known = _part(place[:-1]).model_fields
        where = _told(place[:-1])
        return (f"{where}: " if where else "") + "unknown key; known are " + ", ".join(known)
    where = _told(place)
    message = str(first["msg"]).removeprefix("Value error, ")
    if (
        len(place) > 2 and first["type"] != "list_type" and not isinstance(place[-1], int) and place[-1] not in _NAMES
    ):  # one of several types, of which the first is told
        is_id = (
            place[0] != "user"
            and _CONDITIONS.isdisjoint(place[1:4])
            and ("described" not in place[:3] or "item" in place[3:4])
        )
        message = f"an item id is {_ID}" if is_id else f"a value is {_VALUE}"
    return f"{where}: {message}" if where else message


def _part(place: list[int | str]) -> type[BaseModel]:
    """What takes keys at a place of a request."""
    if "ranges" in place[1:4]:
        return Range
    return Group if "any_of" in place[1:2] else _PARTS[tuple(map(str, place))]


def _told(place: list[int | str]) -> str:
    """A place without the keys that the client made up."""
    return ".".join(str(part) for part in place if isinstance(part, int) or part in _NAMES)


def without_places(message: str, *folders: Path) -> str:
    """A message for clients: names of these folders are left out; where another absolute path remains, all of it is."""
    names = {str(each) for folder in folders for each in (folder.resolve(), folder.absolute(), folder)} - {".", "/"}
    for name in sorted(names, key=len, reverse=True):
        message = message.replace(name, "the bundle")
    return _SEE_LOG if _ABSOLUTE.search(message) else message
