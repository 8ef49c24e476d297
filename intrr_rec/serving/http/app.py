"""The routes of the online server, its OpenAPI description and its page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from intrr_rec import __version__
from intrr_rec.config.serving import ServeConfig
from intrr_rec.errors import UserError
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.batcher import Batcher, Overloaded
from intrr_rec.serving.http.guard import RECOMMEND, STATIC, busy, from_elsewhere, guard
from intrr_rec.serving.http.live import Live
from intrr_rec.serving.http.metrics import CONTENT_TYPE, Metrics
from intrr_rec.serving.http.problems import Refused, explain_invalid, problem, without_places
from intrr_rec.serving.http.schemas import (
    BundleDetail,
    Health,
    ItemDetail,
    Problem,
    RecommendRequest,
    RecommendResponse,
    Reloaded,
    SearchResponse,
)
from intrr_rec.serving.http.workers.team import Team

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_FOUND = 50

log = logging.getLogger(__name__)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


class Service:
    """The server's parts, for its routes and for what starts and stops it.

    Args:
        load: as `Live`.
        settings: batching and limits.
        token: bearer token asked for; None asks nobody.
        hosts: host names answered to; None: all.
        local: whether only this machine can reach the server: then a reload needs no token.
        team: the workers that this process is one of; None: it is the only one.
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        settings: ServeConfig,
        token: str | None = None,
        hosts: tuple[str, ...] | None = None,
        local: bool = True,
        team: Team | None = None,
    ) -> None:
        self.settings, self.team = settings, team
        self.metrics = Metrics(team)
        self.draining = False
        self.background: set[asyncio.Task[None]] = set()
        self.may_reload = local or token is not None

        def one_thread_for_all() -> None:
            torch.set_num_threads(settings.threads)

        self.live = Live(load, self.metrics, one_thread_for_all, team)
        self.batcher: Batcher[RecommendRequest, RecommendResponse] = Batcher(
            self.live.answer, settings, one_thread_for_all, self.metrics.observe_batch
        )
        self.app = _routes(self)
        guard(self.app, settings, self.batcher, self.metrics, token, hosts)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the batcher; at the end answer what it still holds."""
        self.batcher.start()
        yield
        await self.batcher.close()
        self.live.aside.shutdown()


def _routes(service: Service) -> FastAPI:
    app = FastAPI(
        title="intrr_rec",
        version=__version__,
        description="Generative recommendation: a history of items → ranked items.",
        lifespan=service.lifespan,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=_problems(400, 401, 408, 413, 422, 429, 503),
    )
    live, settings = service.live, service.settings

    @app.post(RECOMMEND)
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        """The best items after a history."""
        if (reason := request.beyond(settings)) is not None:
            raise Refused(422, reason)
        if live.current.reads_times and request.history and request.times is None:
            raise Refused(422, "timestamps: this model reads times; give those of the history")
        if request.names_features and (reason := await _aside(live, live.current.misnamed, request)) is not None:
            raise Refused(422, reason)
        if request.filters.looks_at_items and (reason := await _aside(live, live.current.lacks, request)) is not None:
            raise Refused(422, reason)
        try:
            answer = await service.batcher.submit(request)
        except Overloaded as overloaded:
            raise busy(overloaded) from None
        service.metrics.unknown_items.inc(answer.unknown_items)
        if answer.source == "popularity":
            service.metrics.defaults.inc()
        return answer

    @app.get("/bundle")
    async def bundle() -> BundleDetail:
        """The bundle being served."""
        return live.current.describe()

    @app.get("/items")
    async def search(
        query: Annotated[str, Query(max_length=200, description="words of a title, or an item's own id")],
        limit: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 20,
    ) -> SearchResponse:
        """Items whose title holds every word."""
        return SearchResponse(items=await _aside(live, live.current.search, query, limit))

    @app.get("/items/{item_id:path}", responses=_problems(404))
    async def item(item_id: str) -> ItemDetail:
        """An item's Semantic ID, how redistribution spreads it, and its neighbours."""
        found = await _aside(live, live.current.item, item_id)
        if found is None:
            raise HTTPException(404, "no such item")
        return found

    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the process lives."""
        return Health(status="draining" if service.draining else "ok", bundle=live.current.bundle_hash)

    @app.get("/readyz")
    async def readyz() -> Health:
        """Whether to send requests here: not while it is being stopped."""
        if service.draining or not service.batcher.alive:
            raise HTTPException(503, "not ready")
        return await healthz()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(await _aside(live, service.metrics.text), media_type=CONTENT_TYPE)

    @app.post("/admin/reload", responses=_problems(403, 409))
    async def reload(request: Request) -> Reloaded:
        """Read the bundle anew from where it lies; where it is not fit, the old one goes on."""
        if not service.may_reload or from_elsewhere(request.headers):
            raise Refused(
                403, "a reload needs a bearer token, or a server bound to loopback and no page of another site"
            )
        try:
            changed = await live.reload_all()
        except UserError as error:
            reason = without_places(str(error), live.current.bundle.path)
            raise HTTPException(409, f"the old bundle goes on: {reason}") from None
        return Reloaded(bundle=live.current.bundle_hash, changed=changed)

    # Held in memory: a page costs no open file, so it comes also where those are scarce.
    page = {file.name: Response(file.read_bytes(), media_type=PAGE_TYPES[file.suffix]) for file in PAGE.iterdir()}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page["index.html"]

    @app.get(STATIC + "{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in page:
            raise HTTPException(404, "no such file")
        return page[name]

    async def damaged(_: Request, error: Exception) -> JSONResponse:
        """The bundle's files were changed under the server."""
        log.error("%s", error)
        return problem(503, without_places(str(error), live.current.bundle.path))

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UserError, damaged)
    app.add_exception_handler(Exception, _fault)
    return app


async def _aside(live: Live, work: Callable, *arguments: object) -> Any:
    return await asyncio.get_running_loop().run_in_executor(live.aside, work, *arguments)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem(422, explain_invalid(error))


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    unread = error.status_code == 400 and error.detail == "There was an error parsing the body"  # FastAPI's words
    said = (
        "the body cannot be read: packed, not UTF-8, too deep, or with a number too long"
        if unread
        else str(error.detail)
    )
    return problem(error.status_code, said, error.headers)


async def _fault(_: Request, error: Exception) -> JSONResponse:
    log.error("a fault of ours", exc_info=error)
    return problem(500, "a fault of the server; its log has the details")
