"""Connections: how many may be open, and how long each may keep the server waiting for its client.

uvicorn speaks HTTP/1.1 and closes idle connections. Added here are the bounds that it lacks: on the headers, on the body, on the
taking of an answer, and on the number of open connections, which is kept by closing the one that has waited longest for its
client. A connection whose request is being worked on is never closed for another, so a newcomer always finds a place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import h11
import psutil
from h11._readers import ChunkedReader, ContentLengthReader
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from intrr_rec.config.serving import ServeConfig
from intrr_rec.errors import ConfigError

# Open files beside connections: bundles while one replaces another, logs, pipes of threads.
FILES = 64
# Connections taken from the kernel in one turn of the event loop, so that those that are open are served in between.
ACCEPTED_AT_ONCE = 16
ENDED_AT_ONCE = 16
# Bytes of a body that are parsed at once, unless they are its last.
PIECE = 4096
CHUNKS_END = b"\r\n\r\n"
# Time before a body's rate counts: a lost packet is sent again within it.
BODY_GRACE_SECONDS = 3.0
SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
]

# What the server waits for: a request's headers, its body, that an answer is taken, the next request.
Awaited = Literal["header", "body", "answer", "idle"]
log = logging.getLogger(__name__)


def fit_to_open_files(settings: ServeConfig) -> ServeConfig:
    """Settings whose connections this process can open; its soft limit of open files is raised as far as they need.

    A quarter of the connections is kept free of requests that are worked on: probes and refusals use it.

    Raises:
        ConfigError: the limit leaves room for too few connections.
    """
    wanted, least = settings.max_connections, type(settings).model_fields["max_connections"].metadata[0].ge
    # Between the acceptance of a connection and the closing of the one that makes room for it lie a few turns of the loop.
    others = psutil.Process().num_fds() + FILES + 4 * ACCEPTED_AT_ONCE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        soft = wanted + others if hard == resource.RLIM_INFINITY else min(wanted + others, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = soft - others
        if wanted < least:
            raise ConfigError(
                f"ulimit -n {hard}: too few open files to serve; raise it to {settings.max_connections + others}"
            )
        if wanted < settings.max_connections:
            log.info("ulimit -n %d: at most %d connections, not %d", hard, wanted, settings.max_connections)
    in_flight = min(settings.max_in_flight, wanted * 3 // 4)
    return settings.model_copy(update={"max_connections": wanted, "max_in_flight": in_flight})


class Connections:
    """What the connections of one server share.

    Args:
        settings: the bounds.
        ended: called with the reason for each connection that the server ends: what it waited for, or "room".
    """

    def __init__(self, settings: ServeConfig, ended: Callable[[str], None]) -> None:
        self.settings = settings
        self.ended = ended
        self.open: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}  # the longest waiting first
        self._late: deque[Connection] = deque()

    def admit(self, connection: Connection) -> None:
        """Take a connection in; where it is one too many, close the one that has waited longest for its client."""
        self.open.add(connection)
        if len(self.open) > self.settings.max_connections:
            self.make_room()

    def make_room(self) -> None:
        """Close the connection that has waited longest for its client, if there is any."""
        longest = next(iter(self.waiting), None)
        if longest is not None:
            log.warning("too many connections: whenever one is opened, the longest waiting is closed")
            longest.end("room")

    def is_late(self, connection: Connection) -> None:
        """End a connection soon: of thousands whose time is over at once, a few in each turn of the event loop."""
        self._late.append(connection)
        if len(self._late) == 1:
            connection.loop.call_soon(self._end_some)

    def _end_some(self) -> None:
        for _ in range(min(ENDED_AT_ONCE, len(self._late))):
            self._late.popleft().end_if_late()
        if self._late:
            self._late[0].loop.call_soon(self._end_some)

    def __call__(self, **given: Any) -> Connection:
        """A connection, as uvicorn makes it."""
        return Connection(self, **given)


class Connection(H11Protocol):
    """A connection that does not keep the server waiting for long.

    Args:
        shared: with the other connections.
        given: by uvicorn.
    """

    def __init__(self, shared: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._shared = shared
        self._awaited: Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._received = 0
        self._half_closed = False
        self._pieces = bytearray()
        self._tail = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._shared.admit(self)
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Read on; each byte counts for the rate of a body, none of them prolongs the time for headers."""
        self._received += len(data)
        self._tail = (self._tail + data[-len(CHUNKS_END) :])[-len(CHUNKS_END) :]
        if self.conn.their_state is h11.SEND_BODY and not self._is_worth_reading(data):
            return
        if self._pieces:
            data = bytes(self._pieces)
            self._pieces.clear()
        super().data_received(data)
        self._settle()

    def _is_worth_reading(self, data: bytes) -> bool:
        """Whether a body has grown enough to be parsed; else its pieces are kept.

        A piece that is parsed wakes the request that waits for it, which costs a thousand times what a byte of a thousand
        trickling bodies should.
        """
        self._pieces += data
        reader = self.conn._reader
        if isinstance(reader, ContentLengthReader):
            return len(self._pieces) >= min(PIECE, getattr(reader, "_remaining", 0))
        if isinstance(reader, ChunkedReader):  # whose last chunk ends with an empty line
            return len(self._pieces) >= PIECE or self._tail == CHUNKS_END
        return True

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay: a client that says that nothing more will come still gets the answer to what came."""
        self._half_closed = self._is_answering() and self.conn.their_state is not h11.SEND_BODY
        return self._half_closed

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._half_closed and not self._is_answering():
            self.transport.close()
        self._settle()

    def pause_writing(self) -> None:
        """The client does not read: from now on it is waited for."""
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._settle()

    def timeout_keep_alive_handler(self) -> None:
        """As uvicorn's; the answer that is still to be taken has its own bound."""
        super().timeout_keep_alive_handler()
        self._settle()

    def shutdown(self) -> None:
        """As uvicorn's; a client that does not read is waited for no longer than elsewhere."""
        super().shutdown()
        self._settle()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in JSON like every other error; a request whose body broke is answered by nobody else."""
        begun = self._is_answering() and self.cycle.response_started
        self._forsake()
        if begun:
            self.transport.close()
        else:
            self._refuse(400, "not a valid HTTP/1.1 request")

    def end(self, reason: Awaited | Literal["room"]) -> None:
        """Close the connection; a client whose request is on its way is told why."""
        self._shared.ended(reason)
        unanswered = self._awaited == "body" and self._is_answering() and not self.cycle.response_started
        asking = unanswered or (self._awaited == "header" and bool(self.conn.trailing_data[0]))
        self._leave()
        self._forsake()
        unread = self.transport.get_write_buffer_size() > 0
        if asking and not unread:
            busy = reason == "room"
            self._refuse(
                503 if busy else 408, "too many connections; try again" if busy else f"the {reason} took too long"
            )
        self.transport.close()
        if self.transport.get_write_buffer_size():  # it reads nothing, so it is not told anything either
            self.transport.abort()

    def end_if_late(self) -> None:
        """Close the connection if its client still has not done what was waited for in time."""
        if self in self._shared.waiting and self._awaited not in (None, "idle") and self._left() <= 0:
            self.end(self._awaited)

    def _forsake(self) -> None:
        """Tell what works on a request that it need not answer any more."""
        if self._is_answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _now_awaited(self) -> Awaited | None:
        """What the client has to do next; None while the server has."""
        if self.transport.is_closing():
            return "answer" if self.transport.get_write_buffer_size() else None
        if self._is_answering() and self.flow.write_paused:
            return "answer"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self._is_answering():
            return None
        return "header" if self.cycle is None or self.conn.trailing_data[0] else "idle"

    def _settle(self) -> None:
        """After anything that happened: if something else is waited for than before, its time begins."""
        awaited = self._now_awaited()
        if awaited == self._awaited or self not in self._shared.open:
            return
        self._stop_waiting()
        self._awaited = awaited
        if awaited is None:
            return
        self._shared.waiting[self] = None
        self._since, self._received = self.loop.time(), 0
        if awaited != "idle":  # which uvicorn ends
            self._timer = self.loop.call_later(self._allowed(), self._look)

    def _allowed(self) -> float:
        """Seconds that what is awaited may take, as far as one can tell by now."""
        settings = self._shared.settings
        if self._awaited == "header":
            return settings.header_seconds
        if self._awaited == "answer":
            return settings.send_seconds
        return min(settings.body_seconds, BODY_GRACE_SECONDS + self._received / settings.body_bytes_per_second)

    def _left(self) -> float:
        return self._since + self._allowed() - self.loop.time()

    def _look(self) -> None:
        """When time may be over; bytes of a body may have prolonged it."""
        if (left := self._left()) > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._shared.is_late(self)

    def _stop_waiting(self) -> None:
        self._shared.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._stop_waiting()
        self._shared.open.discard(self)

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what reached no route, and close."""
        body = json.dumps({"error": reason}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        answer = h11.Response(status_code=status, headers=[*headers, *SECURITY_HEADERS], reason=STATUS_PHRASES[status])
        for event in (answer, h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
