"""`python -m benchmarks.speed.long_requests --bundle DIR`: what a request with a long history takes of the server beside a short one.

One client asks, request after request, in turns: 50 events; as many as `--events`; and, of a second server that keeps histories, a user's history
that grows by three events from each request to the next up to as many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.machine import describe
from benchmarks.speed.serving import Client, serving_process
from intrr_rec.serving.bundle.bundle import Bundle

SHORT, ADDED, WARM_UP = 50, 3, 5


async def ask_in_turns(ports: tuple[int, int], bundle: Bundle, events: int, requests: int) -> dict[str, list[float]]:
    """Milliseconds of each request, by kind."""
    rng, plain, keeping = np.random.default_rng(0), Client(ports[0]), Client(ports[1])
    moments = (1_600_000_000 + 60 * np.arange(events)).tolist()
    own = bundle.items.own(rng.integers(0, bundle.n_items, events).tolist())
    found: dict[str, list[float]] = {f"{SHORT} events": [], f"{events:,} events": [], f"{events:,} events, known": []}
    for number in range(requests + WARM_UP):
        grown = events - ADDED * (requests + WARM_UP - 1 - number)
        fresh = bundle.items.own(rng.integers(0, bundle.n_items, events).tolist())
        histories = ((plain, fresh[:SHORT]), (plain, fresh), (keeping, own[:grown]))
        for (client, history), spent in zip(histories, found.values(), strict=True):
            body = json.dumps({"history": history, "timestamps": moments[: len(history)], "k": 10}).encode()
            started = time.perf_counter()
            status = await client.post("/recommend", body)
            spent.append(1e3 * (time.perf_counter() - started))
            assert status == 200, status
    plain.close()
    keeping.close()
    return {kind: spent[WARM_UP:] for kind, spent in found.items()}


def main() -> None:
    """Measure and print a table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--bundle", type=Path, required=True)
    asked.add_argument("--events", type=int, default=4000)
    asked.add_argument("--requests", type=int, default=200)
    options = asked.parse_args()
    bundle, room = Bundle.load(options.bundle), f"serve.max_history={options.events}"
    with (
        serving_process(options.bundle, [room]) as (plain, _),
        serving_process(options.bundle, [room, "serve.history_cache_mb=256"]) as (keeping, _),
    ):
        found = asyncio.run(ask_in_turns((plain, keeping), bundle, options.events, options.requests))
    print(describe(torch.device("cpu")))
    short = np.percentile(found[f"{SHORT} events"], [50, 99])
    for kind, spent in found.items():
        p50, p99 = np.percentile(spent, [50, 99])
        print(f"| {kind} | {p50:.1f} ({p50 / short[0]:.2f}) | {p99:.1f} ({p99 / short[1]:.2f}) |")


if __name__ == "__main__":
    main()
