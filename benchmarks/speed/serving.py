"""Latency of the online server by load: requests leave on a clock of their own, whether or not the last is answered.

The server is a process of its own (`intrr serve` on loopback) and this one is the client. Latency counts from when a request
was due, so a client or server that falls behind shows in the figures and hides nothing (open loop).
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.serving.bundle.bundle import Bundle

MOST_REQUESTS = 100_000
MOST_CONNECTIONS = 512
WARM_UP = 50
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Load:
    """What is asked, and how often.

    Attributes:
        rates: requests a second, one measurement each.
        seconds: length of a measurement.
        k: items asked for.
        beam: W.
        longest: histories have one to this many items, all lengths as likely, items as likely as they are popular.
        seed: of arrivals and histories.
    """

    rates: tuple[int, ...]
    seconds: float
    k: int
    beam: int
    longest: int
    seed: int


def bench_serving(bundle: Path, load: Load, settings: Sequence[str], out: Path) -> dict[str, Any]:
    """Measure the curve of latency by load; prints a table and writes the figures to `out` (JSON).

    Args:
        bundle: what to serve.
        load: what to ask.
        settings: words `serve.key=value` for the server.
        out: of the figures, all latencies in milliseconds; `server_cpu_ms` is processor time a request.

    Raises:
        ArtefactError: no bundle fit to serve.
        ConfigError: more requests than a measurement should send, or a server that does not start.
    """
    if sum(rate * load.seconds for rate in load.rates) > MOST_REQUESTS:
        raise ConfigError(f"bench serving: more than {MOST_REQUESTS} requests; lower --rates or --seconds")
    opened = Bundle.load(bundle)
    rng = np.random.default_rng(load.seed)
    with serving_process(bundle, settings) as (port, server):
        asyncio.run(measure(port, server, 20, request_bodies(opened, load, rng, WARM_UP), rng))
        points = [
            asyncio.run(measure(port, server, rate, request_bodies(opened, load, rng, round(rate * load.seconds)), rng))
            for rate in load.rates
        ]
    figures = {
        "machine": describe(torch.device("cpu")),
        "bundle": opened.manifest.content_hash,
        "items": opened.n_items,
        "k": load.k,
        "beam": load.beam,
        "longest_history": load.longest,
        "seconds": load.seconds,
        "seed": load.seed,
        "settings": list(settings),
        "points": points,
    }
    write_json(out, figures)
    columns = (
        "requests a second",
        "answered",
        "429",
        "p50 ms",
        "p99 ms",
        "max ms",
        "server CPU ms",
        "client late, p99 ms",
    )
    table = Table(*columns, title=f"{opened.n_items:,} items, W = {load.beam}, k = {load.k}")
    for point in points:
        times = [f"{point[name]:.1f}" for name in ("p50", "p99", "max", "server_cpu_ms", "client_late_p99")]
        table.add_row(str(point["rate"]), str(point["answered"]), str(point["refused"]), *times)
    Console().print(table)
    return figures


def parse_rates(words: str) -> tuple[int, ...]:
    """`10,50` → (10, 50).

    Raises:
        ConfigError: not whole numbers of at least 1.
    """
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--rates {words}: must be whole numbers and commas, such as 10,50,100")
    return tuple(map(int, parts))


@contextmanager
def serving_process(bundle: Path, settings: Sequence[str]) -> Iterator[tuple[int, psutil.Process]]:
    """`intrr serve` in a process of its own; gives its port when it listens, and the process."""
    command = [sys.executable, "-m", "intrr_rec", "serve", str(bundle), "--port", "0", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.strip())
            if found := _ADDRESS.search(line):
                yield int(found[1]), psutil.Process(process.pid)
                break
        else:
            raise ConfigError(f"bench serving: the server did not start: {' '.join(said[-1:])}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()


def request_bodies(bundle: Bundle, load: Load, rng: np.random.Generator, number: int) -> list[bytes]:
    """So many requests, as a client sends them."""
    share_I = (bundle.items.popularity_I + 1) / (bundle.items.popularity_I + 1).sum()
    lengths = rng.integers(1, load.longest + 1, number)
    items = bundle.items.own(rng.choice(len(share_I), lengths.sum(), p=share_I).tolist())
    moments = [0] * load.longest  # for models that read times
    bodies, first = [], 0
    for length in lengths.tolist():
        asked = {"history": items[first : first + length], "timestamps": moments[:length], "k": load.k}
        bodies.append(json.dumps(asked | {"beam": load.beam}).encode())
        first += length
    return bodies


async def measure(
    port: int, server: psutil.Process, rate: int, bodies: list[bytes], rng: np.random.Generator
) -> dict[str, Any]:
    """One rate: requests due at the moments of a Poisson process."""
    client, before = Client(port), server.cpu_times()
    due = np.cumsum(rng.exponential(1 / rate, len(bodies)))
    started = time.perf_counter() + 0.1
    answers: list[tuple[int, float]] = []
    late: list[float] = []
    running: set[asyncio.Task[None]] = set()

    async def ask(moment: float, body: bytes) -> None:
        status = await client.post("/recommend", body)
        answers.append((status, time.perf_counter() - moment))

    for offset, body in zip(due.tolist(), bodies, strict=True):
        moment = started + offset
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        late.append(time.perf_counter() - moment)
        running.add(task := asyncio.create_task(ask(moment, body)))
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    elapsed = time.perf_counter() - started
    client.close()
    after = server.cpu_times()
    ok = 1e3 * np.array([seconds for status, seconds in answers if status == 200] or [np.nan])
    statuses = [status for status, _ in answers]
    return {
        "rate": rate,
        "sent": len(bodies),
        "answered": statuses.count(200),
        "refused": statuses.count(429),
        "failed": len(statuses) - statuses.count(200) - statuses.count(429),
        "answered_a_second": statuses.count(200) / elapsed,
        "p50": float(np.percentile(ok, 50)),
        "p99": float(np.percentile(ok, 99)),
        "max": float(ok.max()),
        "server_cpu_ms": 1e3 * (after.user + after.system - before.user - before.system) / len(bodies),
        "client_late_p99": float(1e3 * np.percentile(late, 99)),
    }


class Client:
    """Keeps connections open and takes the one that is free the longest, as a balancer does; opens one more where none is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._open = asyncio.Semaphore(MOST_CONNECTIONS)

    async def post(self, path: str, body: bytes) -> int:
        """The status of the answer, which is read whole; 0 where the connection broke."""
        async with self._open:
            try:
                reader, writer = self._idle() or await asyncio.open_connection("127.0.0.1", self._port)
                head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = re.search(r"content-length: (\d+)", answer)
                await reader.readexactly(int(length[1]) if length else 0)
            except (OSError, asyncio.IncompleteReadError):
                return 0
            if "connection: close" in answer:
                writer.close()
            else:
                self._free.append((reader, writer))
            return int(answer.split(" ", 2)[1])

    def _idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A free connection that the server has not closed meanwhile."""
        while self._free:
            reader, writer = self._free.popleft()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._free:
            writer.close()
