"""What stands before every route: who may ask, how much at a time, how large, and the count of it.

A pure ASGI layer, so that a refused request costs next to nothing: its body is never parsed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intrr_rec.config.serving import ServeConfig
from intrr_rec.serving.http.batcher import Batcher, Overloaded
from intrr_rec.serving.http.metrics import Metrics

RECOMMEND = "/recommend"
# Answered to anyone, however busy: probes, and the page (it holds no data; what it asks for is guarded).
OPEN = ("/", "/healthz", "/readyz", "/static/")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
]


class Refused(HTTPException):
    """A request that is not answered: status, a reason in words, and headers to say it with."""


class Guard:
    """Checks, limits and counts requests.

    Args:
        app: what to guard.
        settings: the limits.
        batcher: asked for room before a body is read.
        metrics: where to count.
        token: bearer token that is asked for; None asks nobody.
        hosts: names this server answers to (a page elsewhere could otherwise have its own name point here); None: all.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeConfig,
        batcher: Batcher,
        metrics: Metrics,
        token: str | None,
        hosts: Iterable[str] | None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.batcher = batcher
        self.metrics = metrics
        self.token = token.encode() if token else None
        self.hosts = frozenset(hosts) if hosts is not None else None
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            self._admit(scope)
            await self.app(scope, _Body(receive, self.settings), sending)
        except Refused as refused:
            if not status:
                await _refuse(refused, sending)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)
            self.metrics.waiting.set(self.batcher.waiting)
            route = getattr(scope.get("route"), "path", RECOMMEND if scope["path"] == RECOMMEND else "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self.hosts is not None and _host(headers) not in self.hosts:
            raise Refused(421, "this server answers to other host names")
        if path in OPEN or path.startswith(OPEN[-1]):
            return
        if self.in_flight > self.settings.max_in_flight:
            raise Refused(429, "too many requests at once", {"Retry-After": "1"})
        if self.token is not None and not self._knows_token(headers):
            raise Refused(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if int(headers.get("content-length") or 0) > self.settings.max_body_bytes:
            raise too_large(self.settings)
        if path == RECOMMEND:
            try:
                self.batcher.require_room()
            except Overloaded as overloaded:
                raise busy(overloaded) from None

    def _knows_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), self.token or b"")
        return same and scheme.lower() == "bearer"


class _Body:
    """The body of a request as it arrives: not too much, not too slowly."""

    def __init__(self, receive: Receive, settings: ServeConfig) -> None:
        self._receive = receive
        self._settings = settings
        self._deadline: float | None = None
        self._size = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is the client's leaving, for which there is no hurry
            return await self._receive()
        if self._deadline is None:  # counted from here: what the server itself took until now is not the client's doing
            self._deadline = time.monotonic() + self._settings.body_seconds
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except asyncio.TimeoutError:
            raise Refused(408, "the body took too long to arrive", {"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > self._settings.max_body_bytes:
                raise too_large(self._settings)
        return message


def too_large(settings: ServeConfig) -> Refused:
    """The refusal of a large body."""
    return Refused(413, f"body: at most {settings.max_body_bytes} bytes", {"Connection": "close"})


def busy(overloaded: Overloaded) -> Refused:
    """The refusal of a request that finds the queue full."""
    return Refused(429, f"the queue is full; {overloaded}", {"Retry-After": str(overloaded.retry_after)})


def from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site sent this request."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("//")[2] != headers.get("host")


def _host(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


async def _refuse(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": refused.detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(refused.headers or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
