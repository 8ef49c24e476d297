"""No more requests at once than the settings say, and a client that is slow takes no place."""

from __future__ import annotations

import asyncio
from typing import Any

from intrr_rec.config import ServeConfig
from intrr_rec.serving.http.batcher import Batcher
from intrr_rec.serving.http.guard import Admission
from intrr_rec.serving.http.metrics import Metrics


def test_what_is_more_than_may_be_worked_on_is_refused_until_there_is_room():
    async def play() -> None:
        settings = ServeConfig(max_in_flight=2)
        batcher: Batcher[int, int] = Batcher(list, settings, lambda: None, Metrics().observe_batch)
        release = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        admission = Admission(app, settings, batcher)

        async def ask(path: str, whole: bool = True) -> int:
            sent: list[Any] = []
            parts = [{"type": "http.request", "more_body": not whole}]

            async def receive() -> Any:
                return parts.pop() if parts else await asyncio.Event().wait()

            async def send(message: Any) -> None:
                sent.append(message)

            await admission({"type": "http", "path": path, "headers": []}, receive, send)
            return sent[0]["status"]

        slow = [asyncio.create_task(ask("/items", whole=False)) for _ in range(20)]
        held = [asyncio.create_task(ask("/items")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ask("/items") == 429
        probe = asyncio.create_task(ask("/healthz"))
        await asyncio.sleep(0)
        assert not probe.done(), "probes are answered however busy"
        release.set()
        assert await asyncio.gather(*held, probe) == [200, 200, 200]
        assert await ask("/items") == 200
        assert not any(each.done() for each in slow)
        for each in slow:
            each.cancel()

    asyncio.run(play())
