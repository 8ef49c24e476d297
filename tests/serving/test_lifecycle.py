"""Stopping and replacing lose nothing that was accepted."""

from __future__ import annotations

import gc
import http.client
import json
import os
import shutil
import signal
import threading
import weakref
from pathlib import Path

import pytest

from intrr_rec.errors import ArtefactError
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.bundle.trained import GUIDANCE, ITEM_EMBEDDINGS, MODEL
from intrr_rec.serving.http.backend import Backend
from tests.serving.process import Answer, Server, read_answer, serving

# Requests gather for so long that a test can act while they wait.
PATIENT = ("serve.batch_wait_ms=1000", "serve.max_batch=64")


@pytest.fixture
def place(bundles, tmp_path: Path) -> Path:
    """A bundle that a test may replace."""
    return Path(shutil.copytree(bundles["path"].path, tmp_path / "bundle"))


def in_flight(server: Server, number: int) -> bool:
    return server.figure("intrr_requests_in_flight") >= number + 1  # the question itself is one


def ask_many(server: Server, number: int) -> tuple[list[Answer], list[threading.Thread]]:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.recommend(history=[1, 2, 3]))) for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    server.until(lambda: in_flight(server, number))
    return answers, threads


@pytest.mark.slow
def test_sigterm_in_mid_request_answers_all_that_was_accepted(place):
    with serving(place, *PATIENT) as server:
        halfway = server.connect()
        body = json.dumps({"history": [1, 2]}).encode()
        halfway.putrequest("POST", "/recommend")
        halfway.putheader("Content-Type", "application/json")
        halfway.putheader("Content-Length", str(len(body)))
        halfway.endheaders(body[:5])
        answers, threads = ask_many(server, 12)
        server.until(lambda: in_flight(server, 13))
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        halfway.send(body[5:])
        answers.append(read_answer(halfway))
        assert [(answer.status, len(answer.body["items"])) for answer in answers] == [(200, 5)] * 12 + [(200, 10)]
        assert server.process.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            server.recommend(history=[1])


@pytest.mark.slow
def test_it_says_that_it_is_draining_while_it_still_answers(place):
    with serving(place, "serve.drain_seconds=2") as server:
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.ask("GET", "/readyz").status == 503)
        assert server.recommend(history=[1]).status == 200
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_a_newer_bundle_is_served_without_a_request_dropped(place, runs, bundles):
    with serving(place) as server:
        stop = threading.Event()
        seen: list[tuple[int, str]] = []

        def keep_asking() -> None:
            while not stop.is_set():
                answer = server.recommend(history=[1, 2, 3])
                seen.append((answer.status, answer.body["bundle"]))

        askers = [threading.Thread(target=keep_asking) for _ in range(3)]
        for asker in askers:
            asker.start()
        old = server.ask("GET", "/healthz").body["bundle"]
        write_bundle(runs["dense"], place)
        answer = server.ask("POST", "/admin/reload")
        new = Bundle.load(place).manifest.content_hash
        assert (answer.status, answer.body) == (200, {"bundle": new, "changed": True})
        server.until(lambda: seen[-1][1] == new)
        stop.set()
        for asker in askers:
            asker.join()
        assert {status for status, _ in seen} == {200}
        assert {bundle for _, bundle in seen} == {old, new} and old != new

        write_bundle(runs["path"], place)
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.ask("GET", "/healthz").body["bundle"] == old)


@pytest.mark.slow
def test_a_bundle_that_is_not_fit_leaves_the_old_one_serving(place):
    with serving(place) as server:
        expected = server.recommend(history=[1, 2, 3]).body
        for name in (MODEL, ITEM_EMBEDDINGS, GUIDANCE):
            os.truncate(place / name, 1000)  # as a copy that was killed leaves it
        for _ in range(2):
            answer = server.ask("POST", "/admin/reload")
            assert answer.status == 409 and "was altered" in answer.body["error"]
        assert server.figure('intrr_reloads_total{outcome="refused"}') == 2
        assert server.recommend(history=[1, 2, 3]).body == expected
        assert "cut short" in server.ask("GET", "/items/29").body["error"]
        shutil.rmtree(place)
        assert server.ask("POST", "/admin/reload").status == 409
        assert server.recommend(history=[1, 2, 3]).body == expected


def test_a_bundle_is_freed_without_the_garbage_collector(bundles):
    """What is alive at the start is left out of its passes, and what replaces it must not come on top of it."""
    backend = Backend(Bundle.load(bundles["path"].path))
    ranker = backend.bundle.trained.ranker
    parts = [weakref.ref(each) for each in (backend, backend.bundle, ranker, ranker.ran)]
    del ranker
    gc.collect()
    gc.disable()
    try:
        del backend
        assert [part() for part in parts] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.slow
def test_sigterm_in_mid_reload_answers_all_that_was_accepted(place):
    with serving(place, *PATIENT) as server:
        answers, threads = ask_many(server, 6)
        for _ in range(3):  # a few, one after the other, so that one is under way
            server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 6
        assert server.process.wait(60) == 0


def test_a_self_test_refuses_scores_that_are_no_numbers(bundles):
    bundle = Bundle.load(bundles["path"].path)
    backend = Backend(bundle)
    backend.test()
    bundle.model.ranker.ran.get_buffer("first").fill_(float("nan"))
    with pytest.raises(ArtefactError, match="self-test"):
        backend.test()


@pytest.mark.slow
def test_a_server_killed_in_mid_reload_gives_no_half_answer_and_leaves_the_bundle_whole(place):
    """Whom it had not answered sees his connection end, and asks again; the next server answers the same."""
    wish: dict[str, object] = {"history": [1, 2, 3], "k": 5}
    outcomes: list[object] = []

    def ask(server: Server) -> None:
        try:
            outcomes.append(server.recommend(**wish).body)
        except (OSError, http.client.HTTPException) as error:
            outcomes.append(error)

    with serving(place, "serve.batch_wait_ms=300", "serve.max_batch=64") as server:
        expected = server.recommend(**wish).body
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        server.until(lambda: in_flight(server, 8))
        server.process.send_signal(signal.SIGHUP)
        server.process.kill()
        for thread in threads:
            thread.join()
    assert len(outcomes) == 8
    assert all(outcome == expected for outcome in outcomes if isinstance(outcome, dict))
    with serving(place) as server:
        assert server.recommend(**wish).body == expected
