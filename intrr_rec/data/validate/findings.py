"""What an examination of raw logs found, and the distributions it saw on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "fine"]


@dataclass(frozen=True)
class Finding:
    """One question put to the logs and its answer.

    Attributes:
        check: the question, in a word or two.
        severity: an error stops `intrr prepare`; a warning says what will be wrong with what is built.
        says: what was found, with counts.
        advice: what it means and how to fix it; empty where nothing is to be done.
    """

    check: str
    severity: Severity
    says: str
    advice: str = ""


@dataclass(frozen=True)
class Extent:
    """Size of a set of interactions; times in seconds since 1970, None where there are none."""

    interactions: int
    users: int
    items: int
    first: int | None = None
    last: int | None = None


@dataclass
class Examination:
    """All that was found.

    Attributes:
        name: of the logs.
        files: raw files read.
        raw: extent as read, rows that cannot be used aside; None where no file could be read.
        kept: extent after the filter of `intrr prepare`; None where nothing is left or an error came before.
        lengths: interactions of a user → users, after the filter (before it, where nothing is left).
        popularity: interactions of an item → items, likewise.
        periods: start of a stretch of time (seconds) → interactions in it, oldest first, all as long.
    """

    name: str
    files: int = 0
    raw: Extent | None = None
    kept: Extent | None = None
    findings: list[Finding] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)
    popularity: dict[int, int] = field(default_factory=dict)
    periods: dict[int, int] = field(default_factory=dict)

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]
