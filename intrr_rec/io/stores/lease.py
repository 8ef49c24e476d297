"""A lease on a place in a store, so that of two jobs that write there the second is refused.

Stores differ in what they offer for a conditional put, and Arrow offers none. What all of them give is that a listing shows every
object whose put has returned. So each job puts an object of its own and then lists: of two jobs at least one sees the other, and it
gives way. The holder puts its object anew every few seconds; one that is not renewed is of a dead job, and is removed. All times are
those of the store.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from intrr_rec.errors import ArtefactError, UserError
from intrr_rec.io.stores.storage import Folder

PREFIX = ".lease-"
RENEW = 5.0  # seconds
EXPIRES = 30.0


class Lease:
    """The right to write at a place, from its making until `release`.

    Args:
        folder: the place.
        expires: seconds after which a lease that was not renewed is of a dead job; one of this machine is known to be at once.

    Raises:
        ArtefactError: another job has it.
        PlaceError: the store does not take it.
    """

    def __init__(self, folder: Folder, expires: float = EXPIRES) -> None:
        self.folder, self.expires = folder, expires
        self._mine = f"{PREFIX}{secrets.token_hex(8)}"
        self._ended = threading.Event()
        self._put(held=False)
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        try:
            self._win()
            self._put(held=True)
        except BaseException:
            with suppress(UserError):
                folder.remove(self._mine)
            raise
        self._renewing.start()

    def require(self) -> None:
        """Refuse to publish where the lease was lost: this job did not renew it in time, and another took the place.

        Raises:
            ArtefactError: it was lost.
        """
        if not self.folder.has(self._mine):
            raise ArtefactError(
                f"{self.folder.place}: this job was silent for longer than {self.expires:.0f} s and another took its "
                "place; nothing was published; give the command again"
            )

    def release(self) -> None:
        """Let go."""
        self._ended.set()
        if self._renewing.is_alive():
            self._renewing.join()
        with suppress(UserError):
            self.folder.remove(self._mine)

    def _win(self) -> None:
        """Until no other job has the place, or one is seen to be alive that has it or is to have it."""
        seen: dict[str, int | None] = {}
        while True:
            now, others = self._look()
            if not others:
                return
            for name, changed in others.items():
                said = self._said(name)
                if said is None:
                    continue  # let go of in the meantime
                age = ((now or 0) - (changed or 0)) / 1e9
                alive = seen.setdefault(name, changed) != changed
                if _is_dead(said) or (age > self.expires and not alive):
                    self.folder.remove(name)
                elif _is_alive(said) or (alive and (said.get("held") or name < self._mine)):
                    raise ArtefactError(
                        f"{self.folder.place}: another job is writing there (process {said.get('pid')} on "
                        f"{said.get('host')}); wait for it, or choose another --out"
                    )
            if self._look()[1]:
                time.sleep(0.5)
                self._put(held=False)

    def _look(self) -> tuple[int | None, dict[str, int | None]]:
        """The store's time, and the leases of others with their times of change."""
        found = {name: changed for name, (_, changed) in self.folder.beside(PREFIX).items()}
        now = found.pop(self._mine, None)
        return now, found

    def _said(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self.folder.read(name, 1 << 16))
        except ArtefactError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _put(self, *, held: bool) -> None:
        self.folder.write(self._mine, json.dumps(_me() | {"held": held}).encode())

    def _renew(self) -> None:
        while not self._ended.wait(min(RENEW, self.expires / 5)):
            with suppress(UserError):  # the store may be away for a moment
                if not self.folder.has(self._mine):
                    return
                self._put(held=True)


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_here(said: dict[str, Any]) -> bool:
    return said.get("host") == socket.gethostname() and said.get("boot") == _boot() and _boot() is not None


def _is_dead(said: dict[str, Any]) -> bool:
    """Whether a lease is of a process of this machine that is no more."""
    return _is_here(said) and isinstance(said.get("pid"), int) and _started(said["pid"]) != said.get("started")


def _is_alive(said: dict[str, Any]) -> bool:
    """Whether it is of a process of this machine that lives and holds it."""
    return _is_here(said) and isinstance(said.get("pid"), int) and bool(said.get("held")) and not _is_dead(said)


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process of this machine began; None where there is none of this number, or it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]
