"""Columns of item tables, judged when a file is opened: what a later verb could not use is refused here."""

from __future__ import annotations

from collections.abc import Mapping

from intrr_rec.data.raw.files import INTEGERS, RawFile, names_in
from intrr_rec.errors import DataError

TEXTS = ("title", "text")


class ItemSchema:
    """The free columns of the files seen so far: name → type, and the file it was first seen in.

    Args:
        known: columns that a dataset has already, name → DuckDB type.
        where: what has them, for messages.

    Attributes:
        is_new: there was no dataset before.
    """

    def __init__(self, known: Mapping[str, str] | None = None, where: str = "") -> None:
        self.is_new = known is None
        self._seen = {name.casefold(): (name, type_, where) for name, type_ in (known or {}).items()}

    def add(self, raw: RawFile) -> None:
        """Take the columns of a file in.

        Raises:
            DataError: names that differ in capitals only, a `title` or `text` that is no text, or another type than before.
        """
        names = names_in(raw)
        twins: dict[str, str] = {}
        for name in names:
            if (other := twins.setdefault(name.casefold(), name)) != name or names.count(name) > 1:
                raise DataError(
                    f"{raw.path}: columns '{other}' and '{name}' differ in capitals only; rename or remove one"
                )
        for name, type_ in raw.columns.items():
            self._add(raw, name, type_)

    def _add(self, raw: RawFile, name: str, type_: str) -> None:
        if name in TEXTS and _family(type_) in ("list", "struct", "bytes"):
            raise DataError(
                f"{raw.path}: column '{name}' has type {type_}; a {name} must be text: write it as one string, or give the "
                "column another name"
            )
        before, was, where = self._seen.setdefault(name.casefold(), (name, type_, str(raw.path)))
        if before != name:
            raise DataError(f"{raw.path}: column '{name}' is '{before}' in {where}; write both the same way")
        if _family(was) != _family(type_):
            raise DataError(
                f"{raw.path}: column '{name}' has type {type_}, but {was} in {where}; write both as one type"
            )


def _family(type_: str) -> str:
    """Types that may stand for one another."""
    if type_.endswith("]"):
        return "list"
    if type_.startswith(("STRUCT", "MAP", "UNION")):
        return "struct"
    if type_ in INTEGERS or type_ in ("FLOAT", "DOUBLE") or type_.startswith("DECIMAL"):
        return "number"
    if type_.startswith(("ENUM", "VARCHAR")):
        return "text"
    return {"BLOB": "bytes"}.get(type_, "moment" if type_.startswith(("DATE", "TIMESTAMP")) else type_)
