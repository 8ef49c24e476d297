"""Marks the events that are targets (`prepare.targets`), by the values of their features as they were read."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from intrr_rec.config.logs.targets import Condition, Range
from intrr_rec.data.features.encode import Raw
from intrr_rec.data.raw.files import literal
from intrr_rec.errors import DataError, instead


def target_sql(con: duckdb.DuckDBPyConnection, raws: Sequence[Raw], targets: dict[str, Condition]) -> str:
    """SQL of the mark of a row of `events t`: 1 of a target, else 0; a missing value is no target.

    Raises:
        DataError: a value that no event has.
    """
    conditions = []
    for raw in raws:
        condition = targets.get(raw.name)
        if condition is None:
            continue
        value = f"t.{raw.kept}"
        if isinstance(condition, Range):
            number = f"TRY_CAST({value} AS DOUBLE)"
            bounds = ((">=", condition.at_least), ("<", condition.below))
            conditions += [
                f"{number} {sign} CAST('{bound!r}' AS DOUBLE)" for sign, bound in bounds if bound is not None
            ]
            continue
        text = f"CAST({value} AS VARCHAR)"
        for word in condition:
            _require_value(con, raw, text, word)
        conditions.append(f"{text} IN ({', '.join(map(literal, condition))})")
    return f"CAST(coalesce({' AND '.join(conditions)}, false) AS INTEGER)"


def _require_value(con: duckdb.DuckDBPyConnection, raw: Raw, text: str, word: str) -> None:
    if con.execute(f"SELECT 1 FROM events t WHERE {text} = {literal(word)} LIMIT 1").fetchall():
        return
    rows = con.execute(
        f"SELECT {text} AS value FROM events t WHERE {text} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20"
    )
    known = instead(word, [value for (value,) in rows.fetchall()])
    raise DataError(f"prepare.targets.{raw.name}: no event has '{word}'{known}")
