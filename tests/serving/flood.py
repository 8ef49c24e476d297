"""Clients that keep a server waiting: connections by the thousand that send nothing, or too little, or read nothing."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.serving.process import Server

# What each kind of connection sends at once, and what it goes on sending byte by byte.
KINDS: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half a header": (b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nX-Padding: ", b"x"),
    "a trickling body": (
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\n{token}Content-Type: application/json\r\n"
        b'Content-Length: 60000\r\n\r\n{"history": [',
        b" ",
    ),
    "idle after an answer": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    "no reading": (b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n{token}\r\n" * 500, b""),
}


class Flood:
    """Open connections of one kind.

    Args:
        server: their aim.
        kind: of `KINDS`.
        number: of connections.
        stubborn: whether those that the server closes are opened anew.
    """

    def __init__(self, server: Server, kind: str, number: int, *, stubborn: bool = False) -> None:
        token = f"Authorization: Bearer {server.token}\r\n".encode() if server.token else b""
        first, self.more = KINDS[kind]
        self.first = first.replace(b"{token}", token)
        self.server, self.number, self.stubborn = server, number, stubborn
        self.sockets: list[socket.socket] = []
        self.reopened = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Flood:
        self.sockets = [each for _ in range(self.number) if (each := self._open()) is not None]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for each in self.sockets:
            each.close()

    def alive(self) -> int:
        """Connections that the server has not closed."""
        return sum(not has_ended(each) for each in self.sockets)

    def _open(self) -> socket.socket | None:
        try:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(10)
            made.connect(("127.0.0.1", self.server.port))
            made.setblocking(False)
            made.send(self.first)
        except OSError:
            return None
        return made

    def _keep(self) -> None:
        while not self._stop.wait(0.5):
            for place, each in enumerate(self.sockets):
                if self._stop.is_set():
                    return
                with contextlib.suppress(OSError):
                    if self.more:
                        each.send(self.more)
                if self.stubborn and has_ended(each):
                    self.reopened += 1
                    each.close()
                    self.sockets[place] = self._open() or each


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side closed a connection that does not block; what it sent is read."""
    try:
        while data := connection.recv(1 << 16):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def open_files(number: int) -> Iterator[None]:
    """This process may open so many files, as far as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard) if hard >= 0 else number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def slowest(server: Server, paths: tuple[str, ...], seconds: float, ask: Callable[[str], int]) -> dict[str, float]:
    """The longest that each path took to be answered 200, asked again and again for so long."""
    worst = dict.fromkeys(paths, 0.0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in paths:
            started = time.perf_counter()
            assert ask(path) == 200, path
            worst[path] = max(worst[path], time.perf_counter() - started)
        time.sleep(0.02)
    return worst


def taken_in(server: Server, path: str, seconds: float = 20) -> None:
    """Wait until what came in one moment is taken in: until ten answers in a row take less than a tenth of a second each."""
    until, quick = time.monotonic() + seconds, 0
    while quick < 10 and time.monotonic() < until:
        started = time.perf_counter()
        quick = quick + 1 if get(server, path) == 200 and time.perf_counter() - started < 0.1 else 0


def get(server: Server, path: str) -> int:
    """The status of an answer on a connection of its own; 0 where there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    began = time.perf_counter()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException) as error:
        print(f"GET {path}: {error!r} after {time.perf_counter() - began:.2f} s")
        return 0
    finally:
        connection.close()
