"""`python -m benchmarks.speed.workers`: what several workers answer on as many cores, beside one worker, and what memory they take.

Measurements come in pairs, in an order that is drawn: one worker at a rate, and all workers at `--times` that rate. The claim holds where
the second has no larger p99. Memory is PSS: what n processes share counts 1/n in each, so the sum counts it once.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.speed.machine import describe
from benchmarks.speed.serving import WARM_UP, Client, Load, measure, request_bodies, serving_process
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.http.workers.processes import held_by

MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$")
PATIENCE = 120.0  # seconds until all workers answer


def wait_for(port: int, server: psutil.Process, workers: int) -> None:
    """Wait until all workers answer: the reload that is asked for is done by every one of them."""
    until = time.monotonic() + PATIENCE
    while workers > 1 and time.monotonic() < until and len(server.children()) < workers:
        time.sleep(0.1)
    client = Client(port)
    if asyncio.run(client.post("/admin/reload", b"")) != 200:
        raise SystemExit("not every worker answers")


def memory_of(server: psutil.Process, bundle: Path) -> tuple[float, float, float]:
    """Megabytes of a server's processes: all that they hold, and of that the mapped files of the bundle, as PSS and as RSS."""
    held, mapped = 0.0, {"Pss": 0.0, "Rss": 0.0}
    for process in (server, *server.children()):
        held += held_by(process.pid) / 1e6
        of_bundle = False
        for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
            if found := MAPPING.match(line):
                of_bundle = found[1].startswith(f"{bundle.absolute()}/")
            elif of_bundle and (name := line.partition(":")[0]) in mapped:
                mapped[name] += int(line.split()[1]) * 1024 / 1e6
    return held, mapped["Pss"], mapped["Rss"]


def main() -> None:
    """Measure in pairs and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=int, nargs="+", default=[100, 150], help="requests a second of one worker")
    parser.add_argument("--times", type=float, default=1.8, help="as many of all workers together")
    parser.add_argument("--pairs", type=int, default=5, help="0: memory alone")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--beam", type=int, default=20)
    parser.add_argument("--longest", type=int, default=20, help="items of a history: one to so many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for workers in (1, given.workers):  # while nobody else maps the files
        with serving_process(given.bundle, ("--workers", str(workers))) as (port, server):
            wait_for(port, server, workers)
            held, pss, rss = memory_of(server, given.bundle)
        print(
            f"{workers} of them: {held:.0f} MB PSS; mapped files of the bundle {pss:.1f} MB PSS, {rss:.1f} MB RSS",
            flush=True,
        )
    if not given.pairs:
        return
    bundle, rng = Bundle.load(given.bundle), np.random.default_rng(0)
    sides = {1: 1.0, given.workers: given.times}
    print(describe(torch.device("cpu")))
    with (
        serving_process(given.bundle, ()) as one,
        serving_process(given.bundle, ("--workers", str(given.workers))) as several,
    ):
        servers = {1: one, given.workers: several}
        for workers, (port, server) in servers.items():
            wait_for(port, server, workers)
            warm = Load((20,), 1, given.k, given.beam, given.longest, 0)
            asyncio.run(measure(port, server, 20 * workers, request_bodies(bundle, warm, rng, WARM_UP * workers), rng))
        for rate in given.rate:
            points: dict[int, list[dict[str, float]]] = {workers: [] for workers in sides}
            for _ in range(given.pairs):
                for workers in rng.permutation(list(sides)).tolist():
                    asked = round(rate * sides[workers])
                    load = Load((asked,), given.seconds, given.k, given.beam, given.longest, 0)
                    bodies = request_bodies(bundle, load, rng, round(asked * given.seconds))
                    points[workers].append(asyncio.run(measure(*servers[workers], asked, bodies, rng)))
            for workers, each in points.items():
                middle = {
                    name: statistics.median(point[name] for point in each)
                    for name in ("answered_a_second", "p50", "p99")
                }
                lost = sum(point["failed"] + point["refused"] for point in each)
                print(
                    f"{workers} of them, {rate * sides[workers]:.0f} asked a second: {middle['answered_a_second']:.0f} answered, "
                    f"p50 {middle['p50']:.1f} ms, p99 {middle['p99']:.1f} ms, {lost:.0f} refused or failed; "
                    "p99 of each: " + " ".join(f"{point['p99']:.1f}" for point in each),
                    flush=True,
                )


if __name__ == "__main__":
    main()
