"""Batches form, stay within their bounds, and lose nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from intrr_rec.config import ServeConfig
from intrr_rec.serving.http.batcher import Batcher, Overloaded


class Gate:
    """Work that doubles its questions, once it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        self.begun.set()
        assert self.open.wait(60)
        if -1 in questions:
            raise ArithmeticError("a fault")
        return [2 * question for question in questions]


def run(scenario: Callable[[Batcher, Gate], Any], **settings: float) -> Gate:
    """Play a scenario against a batcher whose work is a gate."""
    gate = Gate()

    async def play() -> None:
        batcher: Batcher[int, int] = Batcher(gate, ServeConfig(**settings), lambda: None, lambda *_: None)
        batcher.start()
        try:
            await scenario(batcher, gate)
        finally:
            gate.open.set()
            await batcher.close()

    asyncio.run(play())
    return gate


async def begun(gate: Gate) -> None:
    await asyncio.get_running_loop().run_in_executor(None, gate.begun.wait, 60)


def test_what_arrives_while_the_model_works_is_answered_together_and_in_order():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await begun(gate)
        later = [asyncio.create_task(batcher.submit(question)) for question in range(1, 8)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *later) == [0, 2, 4, 6, 8, 10, 12, 14]

    assert run(scenario, max_batch=4, batch_wait_ms=0).batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_the_first_question_waits_for_company_until_the_batch_is_full():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        asked = [asyncio.create_task(batcher.submit(0))]
        await asyncio.sleep(0.05)
        assert not gate.batches
        asked += [asyncio.create_task(batcher.submit(question)) for question in (1, 2)]
        assert await asyncio.wait_for(asyncio.gather(*asked), 60) == [0, 2, 4]

    assert run(scenario, max_batch=3, batch_wait_ms=600_000).batches == [[0, 1, 2]]


def test_a_full_queue_refuses_and_says_when_to_come_again():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        asked = [asyncio.create_task(batcher.submit(0))]
        await begun(gate)
        asked += [asyncio.create_task(batcher.submit(question)) for question in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refusal:
            await batcher.submit(3)
        assert refusal.value.retry_after >= 1
        gate.open.set()
        assert await asyncio.gather(*asked) == [0, 2, 4]
        assert await batcher.submit(3) == 6

    run(scenario, max_batch=1, max_queue=2, batch_wait_ms=0)


def test_closing_answers_what_was_accepted():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        asked = [asyncio.create_task(batcher.submit(question)) for question in range(5)]
        await begun(gate)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        gate.open.set()
        await closing
        assert [task.result() for task in asked] == [0, 2, 4, 6, 8]

    run(scenario, max_batch=2, batch_wait_ms=0)


def test_a_fault_reaches_its_batch_alone():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        with pytest.raises(ArithmeticError):
            await batcher.submit(-1)
        assert await batcher.submit(1) == 2

    run(scenario, batch_wait_ms=0)


def test_a_client_that_left_is_not_computed_for():
    async def scenario(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await begun(gate)
        gone, stays = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, stays) == [0, 4]

    assert run(scenario, max_batch=4, batch_wait_ms=0).batches == [[0], [2]]
