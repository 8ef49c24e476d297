"""Several servers over one socket: started, started again where one dies, and ended together.

The process that does so answers nothing and loads neither torch nor a bundle. Each worker is `intrr serve` with the socket handed
down. All map the same files, so the host's memory holds the bundle once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from intrr_rec.errors import ConfigError
from intrr_rec.serving.http.workers.team import FOLDER, Team

LOOK_SECONDS = 0.1
# A worker that died is replaced after the first of these; where workers die again and again, later and later.
SOON_SECONDS, LATE_SECONDS = 1.0, 60.0
SIGNALS = signal.SIGHUP, signal.SIGTERM, signal.SIGINT
WELL = 0, -signal.SIGTERM  # in good order; while it was still starting

log = logging.getLogger(__name__)


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address, port 0 for any free one; nobody listens yet.

    Raises:
        ConfigError: an address that cannot be bound.
    """
    # The protocol is named because asyncio sends small writes at once only where it is: an answer's second packet would
    # otherwise wait for the client's delayed acknowledgement, 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"--host {host} --port {port}: cannot be bound ({error.strerror}); choose others") from None
    return listening


def supervise(command: Sequence[str], host: str, port: int, workers: int) -> int:
    """Serve by several workers until SIGTERM or SIGINT, which every worker gets; SIGHUP has all of them read the bundle anew.

    The first worker opens the port once its bundle is tested; only then do the others begin, so what is wrong is said once.

    Args:
        command: of a worker, without its socket.
        host, port: to bind to.
        workers: their number.

    Returns:
        The exit code: of the first worker where it never listened, else 0 where all ended in good order.

    Raises:
        ConfigError: an address that cannot be bound.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(bound(host, port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intrr-serve-")))
        return _Supervisor(command, listening, Team.new(folder, workers), stack).run()


class _Supervisor:
    def __init__(self, command: Sequence[str], listening: socket.socket, team: Team, stack: ExitStack) -> None:
        self._command = [*command, "--socket", str(listening.fileno())]
        self._listening, self._team = listening, team
        self._workers: list[subprocess.Popen[bytes]] = []
        self._told: list[int] = []
        self._ending = False
        for sign in SIGNALS:
            stack.callback(signal.signal, sign, signal.signal(sign, lambda number, _: self._told.append(number)))

    def run(self) -> int:
        first = self._start()
        while first.poll() is None and not self._ending and not self._listens():
            self._rest()
        if first.poll() is not None:
            return first.returncode if first.returncode >= 0 else 128 - first.returncode
        wait, again = SOON_SECONDS, time.monotonic()
        while not self._ending:
            if self._remove_dead():
                again = time.monotonic() + wait
                wait = min(2 * wait, LATE_SECONDS)
            elif time.monotonic() > again + LATE_SECONDS:
                wait = SOON_SECONDS
            if len(self._workers) < self._team.size and time.monotonic() >= again:
                self._start()
            self._rest()
        while any(worker.poll() is None for worker in self._workers):
            self._rest()
        return int(any(worker.returncode not in WELL for worker in self._workers))

    def _start(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            self._command,
            pass_fds=[self._listening.fileno()],
            env=os.environ | {FOLDER: str(self._team.folder)},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        self._workers.append(worker)
        return worker

    def _listens(self) -> bool:
        return bool(self._listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def _remove_dead(self) -> bool:
        dead = [worker for worker in self._workers if worker.poll() is not None]
        for worker in dead:
            log.error("worker %d ended (%d); another takes its place", worker.pid, worker.returncode)
            self._workers.remove(worker)
            self._team.forget(worker.pid)
            mark_process_dead(worker.pid, str(self._team.folder))
        return bool(dead)

    def _rest(self) -> None:
        """Wait a moment, then pass on what this process was told."""
        time.sleep(LOOK_SECONDS)
        while self._told:
            sign = self._told.pop(0)
            if sign == signal.SIGHUP:
                self._team.ask()
                continue
            self._ending = True
            self._listening.close()
            for worker in self._workers:
                if worker.poll() is None:
                    # One that does not answer yet has nothing to end in good order.
                    worker.send_signal(sign if self._team.has_joined(worker.pid) else signal.SIGTERM)
