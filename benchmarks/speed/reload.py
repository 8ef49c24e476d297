"""`python -m benchmarks.speed.reload`: what reloads cost the latency of the online server.

Measurements come in pairs, one with reloads and one without, in an order that is drawn; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from pathlib import Path

import numpy as np
import psutil

from benchmarks.speed.serving import WARM_UP, Client, Load, measure, request_bodies, serving_process
from intrr_rec.serving.bundle.bundle import Bundle

Point = dict[str, float]


async def with_reloads(
    port: int, server: psutil.Process, load: Load, bodies: list[bytes], every: float, seed: int
) -> Point:
    """As `measure`, while the bundle is read anew every so many seconds; counts the reloads that did not succeed among `failed`."""
    outcomes: list[int] = []

    async def reload_again() -> None:
        client = Client(port)
        try:
            while True:
                outcomes.append(await client.post("/admin/reload", b""))
                await asyncio.sleep(every)
        finally:
            client.close()

    reloads = asyncio.create_task(reload_again())
    point = await measure(port, server, load.rates[0], bodies, np.random.default_rng(seed))
    reloads.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reloads
    return point | {"reloads": len(outcomes), "failed": point["failed"] + sum(status != 200 for status in outcomes)}


def main() -> None:
    """Measure in pairs and print the p99 of both, their ratio and what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--every", type=float, default=5, help="seconds from a reload to the next")
    parser.add_argument("--rate", type=int, default=50, help="requests a second")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--beam", type=int, default=20)
    parser.add_argument("--longest", type=int, default=50, help="items of a history: one to so many")
    given = parser.parse_args()
    load = Load((given.rate,), given.seconds, given.k, given.beam, given.longest, 0)
    bundle, rng = Bundle.load(given.bundle), np.random.default_rng(0)
    kept: dict[bool, list[Point]] = {False: [], True: []}
    with serving_process(given.bundle, ()) as (port, server):
        asyncio.run(measure(port, server, 20, request_bodies(bundle, load, rng, WARM_UP), rng))
        for pair in range(given.pairs):
            bodies = request_bodies(bundle, load, rng, round(given.rate * given.seconds))
            for reloads in rng.permutation([False, True]).tolist():
                if reloads:
                    point = asyncio.run(with_reloads(port, server, load, bodies, given.every, pair))
                else:
                    point = asyncio.run(measure(port, server, given.rate, bodies, np.random.default_rng(pair)))
                kept[reloads].append(point)
    for points in kept.values():
        print(
            f"{sum(point.get('reloads', 0) for point in points):.0f} reloads: "
            f"{sum(point['sent'] for point in points):.0f} requests, {sum(point['failed'] for point in points):.0f} failed, "
            f"p50 {statistics.median(point['p50'] for point in points):.1f} ms, "
            f"p99 {statistics.median(point['p99'] for point in points):.1f} ms"
        )
        print("  p99 of each:", *(f"{point['p99']:.1f}" for point in points))
    medians = [statistics.median(point["p99"] for point in kept[reloads]) for reloads in (False, True)]
    print(f"p99 with reloads / without: {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
