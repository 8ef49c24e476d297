"""Raw tables → a proposed descriptor: which column is what, and which features the others are.

It is a proposal for a person to read and correct: roles are told by names of columns, kinds by all values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import yaml

from intrr_rec.config.logs.features import Side
from intrr_rec.data.features.columns import FALSE, TRUE
from intrr_rec.data.features.encode import text_sql
from intrr_rec.data.raw.files import RawFile, literal, open_table, readable
from intrr_rec.data.raw.text import Layout
from intrr_rec.errors import DataError

# Names by which logs call their columns, without capitals, blanks, dashes and underscores; the first that is there is taken.
USERS = (
    "userid",
    "user",
    "uid",
    "customerid",
    "customer",
    "visitorid",
    "visitor",
    "memberid",
    "accountid",
    "reviewerid",
    "sessionid",
)
ITEMS = (
    "itemid",
    "item",
    "productid",
    "product",
    "sku",
    "asin",
    "parentasin",
    "movieid",
    "articleid",
    "contentid",
    "videoid",
    "iid",
)
TIMES = ("timestamp", "time", "eventtime", "ts", "datetime", "date", "createdat", "unixreviewtime", "when")
ACTIONS = ("action", "eventtype", "event", "actiontype", "behavior", "behaviour", "interaction")
TITLES = ("title", "name", "productname", "itemname")
_ID = re.compile(r"(^|[^A-Za-z])[iI][dD]$|Id$|ID$")  # sellerId, brand_id; not: paid
SEPARATORS = ("|", ";")
MOST_VALUES = 10_000  # of a text that is taken for a category without a second thought
FEW_NUMBERS = 20  # different whole numbers up to which they are taken for names: stars, steps of a scale


@dataclass(frozen=True)
class Profile:
    """What a column holds: rows with a value, different values, and how many are truth values, numbers, whole ones and times; how many
    hold each separator."""

    filled: int
    distinct: int
    truths: int
    numbers: int
    wholes: int
    times: int
    separated: tuple[int, ...]


def propose(logs: Path, items: Path | None, users: Path | None) -> str:
    """A descriptor in YAML, with what was left out and why as comments.

    Raises:
        DataError: a file that cannot be read, or logs in which no column is called as users, items or times usually are.
    """
    with closing(duckdb.connect()) as con:
        opened: dict[Side, RawFile] = {"event": open_table(con, logs, Layout())[0]}
        for side, table in (("item", items), ("user", users)):
            if table is not None:
                opened[side] = open_table(con, table, Layout())[0]  # type: ignore[index]
        prepare = _roles(opened)
        taken = {
            "event": {prepare["user_column"], prepare["item_column"], prepare.get("time_column")},
            "item": {prepare.get("items_column", prepare["item_column"])},
            "user": {prepare.get("users_column", prepare["user_column"])},
        }
        lines = _head(logs, items, users, prepare, opened)
        sections = []
        for side, raw in opened.items():
            features = [_feature(con, side, raw, name) for name in raw.columns if name not in taken[side]]
            if features:
                sections += [f"    {side}:" if any(not f.startswith("#") for f in features) else f"    # {side}:"]
                sections += [f"      {feature}" for feature in features]
    return "\n".join([*lines, *(["  features:", *sections] if sections else [])]) + "\n"


def _roles(opened: dict[Side, RawFile]) -> dict[str, str | None]:
    logs, items, users = opened["event"], opened.get("item"), opened.get("user")
    found: dict[str, str | None] = {
        "user_column": _called(logs, USERS, "user ids", "user_id"),
        "item_column": _called(logs, ITEMS, "item ids", "item_id"),
        "time_column": _first(logs, TIMES),
    }
    for key, own, raw, names, what in (
        ("items_column", "item_column", items, ITEMS, "item ids"),
        ("users_column", "user_column", users, USERS, "user ids"),
    ):
        if raw is not None and found[own] not in raw.columns:
            found[key] = _called(raw, (*names, "id"), what, str(found[own]))
    return found


def _called(raw: RawFile, names: Sequence[str], what: str, wanted: str) -> str:
    if (found := _first(raw, names)) is None:
        raise DataError(
            f"{raw.path}: no column is called as {what} usually are; it has {', '.join(raw.columns) or 'none'}; call it {wanted}, or "
            "write the descriptor by hand (datasets/README.md)"
        )
    return found


def _first(raw: RawFile, names: Sequence[str]) -> str | None:
    plain = {_plain(column): column for column in reversed(list(raw.columns))}
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _head(
    logs: Path, items: Path | None, users: Path | None, prepare: dict[str, str | None], opened: dict[Side, RawFile]
) -> list[str]:
    lines = [
        "# A proposal, made from the files: read it, and correct what is not so.",
        f"title: {_word(logs.stem)}",
        f"interactions: {_word(str(logs))}",
        *([f"items: {_word(str(items))}"] if items else []),
        *([f"users: {_word(str(users))}"] if users else []),
        "prepare:",
        *(f"  {key}: {_word(column)}" for key, column in prepare.items()),
    ]
    if prepare["time_column"] is None:
        lines[-1 if len(prepare) == 3 else lines.index("  time_column: null")] += (
            "  # the order of the rows is the order of events"
        )
    if "item" in opened and "text" not in opened["item"].columns and (title := _first(opened["item"], TITLES)):
        lines.append(f"  text_template: {_word('{' + title + '}')}  # what the item vectors are made from")
    return lines


def _feature(con: duckdb.DuckDBPyConnection, side: Side, raw: RawFile, name: str) -> str:
    """The line that declares a column as a feature, or the comment that says why it is none."""
    profile = _profile(con, raw, name)
    kind, why = _kind(raw, side, name, profile)
    key = "".join(sign if sign not in ".=" else "_" for sign in name)
    if side == "event" and key in ("item", "time"):
        key = f"event_{key}"
    if kind is None:
        return f"# {_word(name)}: {why}"
    settings = [f"kind: {kind}", *([f"column: {_word(name)}"] if key != name else [])]
    if kind == "multi_categorical" and not raw.columns[name].endswith("[]"):
        settings.append(f"separator: {_word(_separator(profile))}")
    if side == "event" and _plain(name) in ACTIONS:
        settings.append("asked: true")
        why += "; asked: a request may say which action it asks for"
    written = settings[0].removeprefix("kind: ") if len(settings) == 1 else f"{{{', '.join(settings)}}}"
    return f"{_word(key)}: {written}  # {why}"


def _kind(raw: RawFile, side: Side, name: str, profile: Profile) -> tuple[str | None, str]:
    filled, distinct = profile.filled, profile.distinct
    said = f"{distinct:,} different values"
    if not filled:
        return None, "no row has a value"
    if distinct == 1:
        return None, "the same value in all rows"
    if raw.columns[name].endswith("[]"):
        return (
            ("multi_categorical", "lists")
            if side != "event"
            else (None, "lists: those of items and users alone are read")
        )
    if raw.columns[name] == "BOOLEAN" or (profile.truths == filled and distinct <= 2):
        return "boolean", said
    if profile.numbers == filled:
        if _ID.search(name) or (profile.wholes == filled and distinct <= FEW_NUMBERS):
            return "categorical", said
        return "numeric", said
    if profile.times == filled:
        return "timestamp_parts", said
    if side != "event" and max(profile.separated) * 5 >= filled:
        return "multi_categorical", f"several values, between '{_separator(profile)}'"
    if _plain(name) in (*TITLES, "text", "description") or (distinct > MOST_VALUES and distinct * 2 > filled):
        return None, f"text: {said} in {filled:,} rows"
    if distinct * 10 > filled * 9 and filled > FEW_NUMBERS:
        return None, f"nearly every row has a value of its own: {said} in {filled:,} rows"
    return "categorical", said


def _separator(profile: Profile) -> str:
    return SEPARATORS[profile.separated.index(max(profile.separated))]


def _profile(con: duckdb.DuckDBPyConnection, raw: RawFile, name: str) -> Profile:
    text = text_sql(raw, name)
    truths = ", ".join(map(literal, TRUE + FALSE))
    separated = ", ".join(f"count(*) FILTER (contains(t, {literal(sign)}))" for sign in SEPARATORS)
    with readable(raw.path, raw.format, raw.packing):
        row = con.execute(
            f"SELECT count(t), count(DISTINCT t), count(*) FILTER (lower(t) IN ({truths})), count(TRY_CAST(t AS DOUBLE)), "
            f"count(TRY_CAST(t AS BIGINT)) FILTER (NOT contains(t, '.')), count(TRY_CAST(t AS TIMESTAMPTZ)), {separated} "
            f"FROM (SELECT {text} AS t FROM {raw.scan(name)})"
        ).fetchall()[0]
    filled, distinct, truths, numbers, wholes, times, *separators = row
    return Profile(filled, distinct, truths, numbers, wholes, times, tuple(separators))


def _word(value: object) -> str:
    """A value as YAML takes it on one line."""
    return str(yaml.safe_dump(value, allow_unicode=True, width=10_000)).removesuffix("\n").removesuffix("\n...")
