"""A thread that gives way waits while the other is busy, never for ever, and computes the same."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from intrr_rec.serving.http import courtesy
from intrr_rec.serving.http.courtesy import GiveWay


def test_an_operation_waits_until_the_other_thread_is_idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(courtesy, "LONGEST_SECONDS", 60.0)
    idle, done = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []

    def work() -> None:
        with GiveWay(idle):
            found.append(torch.ones(3) + 1)
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert not done.wait(0.2)
    assert (torch.ones(3) * 2).tolist() == [2, 2, 2]  # only the thread that entered it waits
    idle.set()
    assert done.wait(60) and found[0].tolist() == [2, 2, 2]


def test_a_thread_that_never_rests_keeps_no_other_for_ever():
    started = time.perf_counter()
    with GiveWay(threading.Event()), torch.device("meta"):
        made = torch.nn.Linear(4, 4)
    assert made.weight.is_meta
    assert time.perf_counter() - started >= courtesy.LONGEST_SECONDS
