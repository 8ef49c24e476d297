"""What stands before every route: who may ask, how much at a time, how large, and the count of it.

Pure ASGI layers, so that a refused request costs next to nothing: its body is never parsed. From the outside in: `Counted`,
Starlette's `TrustedHostMiddleware` and `AuthenticationMiddleware`, `Admission`, and the routes.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.security.utils import get_authorization_scheme_param
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.datastructures import Headers
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intrr_rec.config.serving import ServeConfig
from intrr_rec.errors import ConfigError
from intrr_rec.serving.http.batcher import Batcher, Overloaded
from intrr_rec.serving.http.metrics import Metrics
from intrr_rec.serving.http.problems import Refused, problem

RECOMMEND = "/recommend"
# Answered to anyone, however busy: probes, and the page (it holds no data; what it asks for is guarded).
OPEN = ("/", "/healthz", "/readyz")
STATIC = "/static/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def guard(
    app: FastAPI,
    settings: ServeConfig,
    batcher: Batcher,
    metrics: Metrics,
    token: str | None,
    hosts: Iterable[str] | None,
) -> None:
    """Put the layers before an application's routes.

    Args:
        app: what to guard.
        settings: the limits.
        batcher: asked for room before a body is read.
        metrics: where to count.
        token: bearer token that is asked for; None asks nobody.
        hosts: names this server answers to (a page elsewhere could otherwise have its own name point here); None: all.
    """
    app.add_middleware(Admission, settings=settings, batcher=batcher)
    if token is not None:
        app.add_middleware(
            AuthenticationMiddleware,
            backend=BearerToken(token),
            on_error=lambda _, error: problem(401, str(error), {"WWW-Authenticate": "Bearer"}),
        )
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Counted, batcher=batcher, metrics=metrics)


def require_usable_token(token: str | None, name: str) -> str | None:
    """The token; an empty one is none.

    Args:
        token: as it was given.
        name: of the variable it was given in, for the message.

    Raises:
        ConfigError: one that no HTTP header can carry.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"{name}: holds a blank, a line break or a character outside ASCII, so no request could ever match it; "
            "set another, such as `openssl rand -hex 32` prints"
        )
    return token or None


def is_open(path: str) -> bool:
    """Whether anyone may ask for this path, at any time."""
    return path in OPEN or path.startswith(STATIC)


def from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site sent this request."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("//")[2] != headers.get("host")


class BearerToken(AuthenticationBackend):
    """Asks for one bearer token, compared in constant time.

    Args:
        token: of visible ASCII characters.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def authenticate(self, conn: HTTPConnection) -> None:
        """Raises AuthenticationError where the token is needed and not given."""
        scheme, given = get_authorization_scheme_param(conn.headers.get("authorization"))
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        if not is_open(conn.scope["path"]) and not (same and scheme.lower() == "bearer"):
            raise AuthenticationError("a valid bearer token is needed")


class Counted:
    """Counts requests and times their answers; HEAD is answered as GET is (uvicorn leaves the body out); errors are JSON.

    Args:
        app: what to count.
        batcher: whose queue is counted.
        metrics: where to count.
    """

    def __init__(self, app: ASGIApp, batcher: Batcher, metrics: Metrics) -> None:
        self.app = app
        self.batcher = batcher
        self.metrics = metrics
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        started = time.perf_counter()
        status, plain = 0, list[bytes]()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and Headers(raw=message["headers"]).get("content-type") != "application/json":
                    plain.append(b"")  # a library's own words: kept until they are whole, then said in JSON
                    return
            if plain:
                plain.append(message.get("body", b""))
                if not message.get("more_body", False):
                    await problem(status, b"".join(plain).decode("utf-8", "replace"))(scope, receive, send)
                return
            await send(message)

        self._working(1)
        try:
            await self.app(scope, receive, sending)
        finally:
            self._working(-1)
            self.metrics.waiting.set(self.batcher.waiting)
            route = getattr(scope.get("route"), "path", RECOMMEND if scope["path"] == RECOMMEND else "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _working(self, more: int) -> None:
        self.in_flight += more
        self.metrics.in_flight.set(self.in_flight)


class Admission:
    """Lets so many requests in at a time. A request is in from when its body is whole until its answer begins.

    So a client that sends or reads slowly takes no place from others; its connection has bounds of its own.

    Args:
        app: what to let in to.
        settings: the limits.
        batcher: asked for room before a body is read.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig, batcher: Batcher) -> None:
        self.app = app
        self.settings = settings
        self.batcher = batcher
        self.admitted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            whole = await self._body(scope, receive)
            if whole is None:
                return
            if self.admitted >= self.settings.max_in_flight:
                raise Refused(429, "too many requests at once", {"Retry-After": "1"})
        except Refused as refused:
            await problem(refused.status_code, refused.detail, refused.headers)(scope, receive, send)
            return
        within = True

        def leave() -> None:
            nonlocal within
            self.admitted -= within
            within = False

        async def receiving() -> Message:
            return unread.pop() if unread else await receive()

        async def sending(message: Message) -> None:
            leave()
            await send(message)

        unread = [whole]
        self.admitted += 1
        try:
            await self.app(scope, receiving, sending)
        finally:
            leave()

    async def _body(self, scope: Scope, receive: Receive) -> Message | None:
        """The body in one message; None where the client left before it was whole.

        Raises:
            Refused: it is too large, or the queue that the request would wait in is full.
        """
        most = self.settings.body_bytes()
        large = Refused(413, f"body: at most {most} bytes", {"Connection": "close"})
        if int(Headers(scope=scope).get("content-length") or 0) > most:
            raise large
        if scope["path"] == RECOMMEND:
            try:
                self.batcher.require_room()
            except Overloaded as overloaded:
                raise busy(overloaded) from None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > most:
                raise large
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}


def busy(overloaded: Overloaded) -> Refused:
    """The refusal of a request that finds the queue full."""
    return Refused(429, f"the queue is full; {overloaded}", {"Retry-After": str(overloaded.retry_after)})
