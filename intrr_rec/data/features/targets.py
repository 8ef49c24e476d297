"""Marks the events that are targets (`prepare.targets`), by the values of their features as they were read."""

from __future__ import annotations

from collections.abc import Sequence

from intrr_rec.config.logs.targets import Condition, Range
from intrr_rec.data.features.encode import Raw, RawValues
from intrr_rec.data.raw.files import literal
from intrr_rec.errors import DataError, instead


def target_sql(values_of: RawValues, raws: Sequence[Raw], targets: dict[str, Condition]) -> str:
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
            _require_value(values_of, raw, word)
        conditions.append(f"{text} IN ({', '.join(map(literal, condition))})")
    return f"CAST(coalesce({' AND '.join(conditions)}, false) AS INTEGER)"


def _require_value(values_of: RawValues, raw: Raw, word: str) -> None:
    text = f"CAST({raw.kept} AS STRING)"
    if values_of.rows(f"SELECT 1 FROM {values_of.table} WHERE {text} = ? LIMIT 1", word):
        return
    rows = values_of.rows(
        f"SELECT value, count(*) AS n FROM (SELECT {text} AS value FROM {values_of.table}) WHERE value IS NOT NULL GROUP BY value "
        "ORDER BY n DESC, value LIMIT 20"
    )
    known = instead(word, [value for value, _ in rows])
    raise DataError(f"prepare.targets.{raw.name}: no event has '{word}'{known}")
