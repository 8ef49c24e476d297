"""The workers of one server, and what they tell one another in a folder of files: which reload all are asked for, and who has done it.

Files rather than signals, so that a worker that is still starting misses nothing. Counters of Prometheus lie there, too.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_text

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # tells a worker the folder; Prometheus' client reads it, too
ASKED, LOADING, SUPERVISOR = "asked", "loading", "supervisor"


class _Report(BaseModel):
    """Of one worker: the newest reload that it has done, and why it was refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    reload: int
    refused: str | None = None


class Team:
    """The workers of one server.

    Args:
        folder: shared by all of them.
        size: their number.

    Attributes:
        supervisor: the process that started the workers.
        done: the newest reload that this worker has done; at first the newest that was asked for before it read its bundle.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.supervisor = int((folder / SUPERVISOR).read_text())
        self.done = self.asked()

    @classmethod
    def new(cls, folder: Path, size: int) -> Team:
        """Of this process, which starts the workers."""
        (folder / SUPERVISOR).write_text(str(os.getpid()))
        return cls(folder, size)

    @property
    def turn(self) -> Path:
        """The lock of the one that reads a bundle: the others have the processors to answer with."""
        return self.folder / LOADING

    def asked(self) -> int:
        """The newest reload that all are asked for; 0 before the first."""
        try:
            return int((self.folder / ASKED).read_text())
        except FileNotFoundError:
            return 0

    def ask(self) -> int:
        """Ask all for a reload; its number."""
        number = max(time.time_ns(), self.asked() + 1)
        write_text(self.folder / ASKED, str(number))
        return number

    def report(self, reload: int, refused: str | None = None) -> None:
        """Tell that this worker has done a reload, or why it goes on with the old bundle."""
        self.done = reload
        write_text(self._of(os.getpid()), _Report(reload=reload, refused=refused).model_dump_json())

    def has_joined(self, worker: int) -> bool:
        """Whether a worker answers."""
        return self._of(worker).exists()

    def forget(self, worker: int) -> None:
        """Remove what a worker told that has died."""
        self._of(worker).unlink(missing_ok=True)

    def all_have(self, reload: int) -> bool:
        """Whether every worker has done a reload.

        Raises:
            ArtefactError: one refused it.
        """
        reports = [_Report.model_validate_json(text) for text in self._texts()]
        done = [report for report in reports if report.reload >= reload]
        if refused := next((report.refused for report in done if report.refused), None):
            raise ArtefactError(f"another worker: {refused}")
        return len(done) >= self.size

    def _of(self, worker: int) -> Path:
        return self.folder / f"worker-{worker}.json"

    def _texts(self) -> list[str]:
        found = []
        for path in self.folder.glob("worker-*.json"):
            with suppress(FileNotFoundError):  # it died meanwhile
                found.append(path.read_text())
        return found
