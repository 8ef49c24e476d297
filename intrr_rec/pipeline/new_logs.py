"""Which files of logs a dataset is still to be given: those whose content it was not made of.

Content decides, not names or dates, so a file that comes late is a new one whatever day it is of, and one that was moved is not. Which
files a dataset was made of is also kept by name, so that one that was changed is refused rather than counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from intrr_rec.data.raw.paths import table_files
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.formats.records import read_texts, sealed
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Location, below

RECORD = "logs.json"


@dataclass(frozen=True)
class Logs:
    """The logs of a pipeline of every day.

    Attributes:
        tables: files and folders of logs.
        dataset: what they are added to.
        record: local file of the hashes of files that were added, by place.
    """

    tables: tuple[Path, ...]
    dataset: Location
    record: Path
    _digests: dict[tuple[Path, int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def new(self) -> list[str]:
        """Places of the files that the dataset was not made of.

        Raises:
            DataError: a file that was changed after it was added; or none is there.
        """
        known, seen = self._known(), self._seen()
        new = []
        for place, digest in self._hashes().items():
            if digest in known:
                continue
            if seen.get(place) in known:
                raise DataError(
                    f"{place}: was changed after it was added to {self.dataset}; put it back, and write late events into a "
                    "file of their own"
                )
            new.append(place)
        return new

    def note(self) -> None:
        """Keep the hashes of the files that the dataset was made of."""
        known, seen = self._known(), self._seen()
        noted = seen | {place: digest for place, digest in self._hashes().items() if digest in known}
        if noted != seen:
            write_json(self.record, sealed(noted))

    def _known(self) -> set[str]:
        return set(artefact.peek(self.dataset).parents.values())

    def _seen(self) -> dict[str, str]:
        return read_texts(self.record, "remove it, and files that were changed since are no longer told from new ones")

    def _hashes(self) -> dict[str, str]:
        found = {}
        with staged() as places:
            for table in self.tables:
                local, place = places.bring(table), url_of(table) or table
                for path in table_files(local):
                    at = place if path == local else below(place, path.relative_to(local).as_posix())
                    found[str(at)] = self._digest(path)
        return found

    def _digest(self, path: Path) -> str:
        """Of a file; one that has not changed since is not read again by this process, which looks at the logs several times a day."""
        stat = path.stat()
        key = path, stat.st_size, stat.st_mtime_ns
        if key not in self._digests:
            self._digests[key] = file_hash(path)
        return self._digests[key]
