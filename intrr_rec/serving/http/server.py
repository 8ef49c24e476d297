"""The process of `intrr serve`: it starts with a bundle that passed its test, and ends when all it accepted is answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from intrr_rec.config.serving import ServeConfig
from intrr_rec.distributed.malloc import keep_freed_memory
from intrr_rec.errors import ConfigError, UserError
from intrr_rec.io.registry import read_registry
from intrr_rec.io.stores.storage import Location, location
from intrr_rec.serving.bundle.bundle import this_device
from intrr_rec.serving.http.app import Service
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.connections import ACCEPTED_AT_ONCE, SECURITY_HEADERS, Connections, fit_to_open_files
from intrr_rec.serving.http.guard import LOOPBACK, require_usable_token
from intrr_rec.serving.http.workers.supervisor import LOOK_SECONDS, bound
from intrr_rec.serving.http.workers.team import FOLDER, Team

TOKEN_VARIABLE = "INTRR_TOKEN"
# A client that does not read its answer does not keep the process alive for ever.
STOP_SECONDS = 60
LONGEST_FOLLOW_SECONDS = 300.0
# While a bundle is read anew, the thread that answers waits for the interpreter after each operation of torch: by default up to
# 5 ms each time. `python -m benchmarks.speed.reload` measures what reloads cost.
SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


def serve(
    bundle: Path,
    *,
    host: str,
    port: int,
    settings: ServeConfig,
    withdrawn: Path | None = None,
    workers: int = 1,
    handed: int | None = None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; SIGHUP reads it anew. Of a registry the current bundle is served and followed.

    The bearer token to ask for is the environment variable INTRR_TOKEN: command lines are for everybody to see.

    Args:
        bundle: artefact written by `intrr export`, or a registry.
        host: to bind to. One that others can reach needs a token.
        port: 0 takes any free one; the log says which.
        settings: batching and limits, of all workers together.
        withdrawn: text file of own ids of items that nobody gets, one a line; what it comes to hold is followed.
        workers: how many serve, of whom this process is one.
        handed: descriptor of the socket that they share; None where this process is the only one.

    Raises:
        ArtefactError: no bundle fit to serve.
        DataError: `withdrawn` cannot be read.
        ConfigError: an address that cannot be bound, or one that others can reach without a token; a token that no
            request can carry; too few open files.
    """
    token, local = require_usable_token(os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE), host in LOOPBACK
    if not local and token is None:
        raise ConfigError(f"--host {host}: others can reach it, so set a bearer token in {TOKEN_VARIABLE}")
    settings = fit_to_open_files(settings.share(workers))
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    load = partial(Backend.load, bundle, this_device(), withdrawn, settings.history_cache_mb << 20)
    if handed is not None and FOLDER not in os.environ:
        raise ConfigError(
            "--socket: is what `intrr serve --workers N` hands its workers; leave it out, and give --workers"
        )
    team = None if handed is None else Team(Path(os.environ[FOLDER]), workers)
    with bound(host, port) if handed is None else socket.socket(fileno=handed) as listening:
        service = Service(load, settings, token, LOOPBACK if local else None, local, team)
        follows = read_registry(location(bundle)) is not None
        asyncio.run(_serve(service, listening, bundle if follows else None, withdrawn))


async def _serve(service: Service, listening: socket.socket, registry: Path | None, withdrawn: Path | None) -> None:
    settings = service.settings
    connections = Connections(settings, lambda reason: service.metrics.ended.labels(reason).inc())
    config = uvicorn.Config(
        service.app,
        http=cast(Any, connections),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=SECURITY_HEADERS,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=cast(int, settings.keep_alive_seconds),
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(Seldom())
    asyncio.get_running_loop().set_exception_handler(partial(_on_fault, connections))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload_soon, service)
    if registry is not None:
        service.background.add(asyncio.create_task(_follow(service, location(registry))))
    if withdrawn is not None:
        service.background.add(asyncio.create_task(_follow_withdrawn(service, withdrawn)))
    if service.team is not None:
        service.background.add(asyncio.create_task(_join(service, service.team)))
    await _Server(config, service).serve([listening])
    log.info("stopped; all that was accepted is answered")


def _on_fault(connections: Connections, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio cannot raise. A connection that cannot be accepted for want of a descriptor is made room for."""
    if isinstance(error := context.get("exception"), OSError) and "accept" in context["message"]:
        log.error("a connection cannot be accepted: %s", error.strerror)
        connections.make_room()
    else:
        loop.default_exception_handler(context)


class Seldom(logging.Filter):
    """Lets each warning and error through once a minute: whoever causes one at will shall not fill the disk."""

    SECONDS = 60.0
    KINDS = 100

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.pathname, record.lineno, record.getMessage(), record.exc_info and record.exc_info[0]
        now = time.monotonic()
        if now - self._last.get(kind, -self.SECONDS) < self.SECONDS:
            return False
        if len(self._last) >= self.KINDS:
            self._last.clear()
        self._last[kind] = now
        return True


def _reload_soon(service: Service) -> None:
    async def reload() -> None:
        with contextlib.suppress(UserError):  # logged and counted where it was refused
            await service.live.reload()

    service.background.add(task := asyncio.create_task(reload()))
    task.add_done_callback(service.background.discard)


async def _follow(service: Service, registry: Location) -> None:
    """Serve what becomes the current bundle of a registry; one that is not fit to serve is tried again, each time later."""
    live, usual = service.live, service.settings.follow_seconds
    wait = usual
    while True:
        await asyncio.sleep(wait)
        try:
            found = await asyncio.get_running_loop().run_in_executor(live.aside, read_registry, registry)
            if found is not None and found.current != live.current.bundle_hash:
                await live.reload()
            wait = usual
        except UserError as error:
            wait = min(2 * wait, LONGEST_FOLLOW_SECONDS)
            log.warning("%s; looking again in %.0f s", error, wait)


async def _follow_withdrawn(service: Service, path: Path) -> None:
    """Withdraw what a file comes to hold; one that cannot be read changes nothing."""
    live, read = service.live, None
    while True:
        found = _state(path)
        if found != read:
            read = found
            try:
                await live.change(lambda backend: backend.without(path))
                log.info("%d items are withdrawn", live.current.withdrawn)
            except UserError as error:
                log.warning("%s; what was withdrawn stays so", error)
        await asyncio.sleep(service.settings.follow_seconds)


def _state(path: Path) -> tuple[int, ...]:
    """Another one where a file was written to or replaced."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


async def _join(service: Service, team: Team) -> None:
    """Read the bundle anew when another worker has, and end where the process that started the workers is gone."""
    team.report(team.done)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if os.getppid() != team.supervisor:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if (asked := team.asked()) > team.done:
            refused = None
            try:
                await service.live.reload()
            except UserError as error:
                refused = str(error)
            team.report(asked, refused)


class _Server(uvicorn.Server):
    """Told to stop, it first says that it is not ready, so that a balancer looks elsewhere; a second signal hurries it."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then say where."""
        await super().startup(sockets)
        for listening in sockets or ():
            # asyncio takes one number for what the kernel holds and for what is accepted at once; the first may be larger.
            listening.listen(self._service.settings.backlog)
            host, port = listening.getsockname()[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            log.info("serving bundle %s on http://%s", self._service.live.current.bundle_hash[:12], where)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, but with a time to drain, and the process then ends by itself, not by the signal."""
        if self._service.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, self._service.settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True
