"""No more requests at once than the settings say."""

from __future__ import annotations

import asyncio
from typing import Any

from intrr_rec.config import ServeConfig
from intrr_rec.serving.http.batcher import Batcher
from intrr_rec.serving.http.guard import Guard
from intrr_rec.serving.http.metrics import Metrics


def test_what_is_more_than_may_be_worked_on_is_refused_until_there_is_room():
    async def play() -> None:
        settings, metrics = ServeConfig(max_in_flight=2), Metrics()
        batcher: Batcher[int, int] = Batcher(list, settings, lambda: None, metrics.observe_batch)
        release = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        guard = Guard(app, settings, batcher, metrics, token=None, hosts=None)

        async def ask(path: str) -> int:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await guard({"type": "http", "path": path, "headers": []}, asyncio.Event().wait, send)
            return sent[0]["status"]

        held = [asyncio.create_task(ask("/items")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ask("/items") == 429
        probe = asyncio.create_task(ask("/healthz"))
        await asyncio.sleep(0)
        assert not probe.done(), "probes are answered however busy"
        release.set()
        assert await asyncio.gather(*held, probe) == [200, 200, 200]
        assert await ask("/items") == 200

    asyncio.run(play())
