"""Several workers of one server: one address, one set of counters and limits; one that dies is replaced, and all end together."""

from __future__ import annotations

import http.client
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from intrr_rec.config import ServeConfig
from intrr_rec.errors import ConfigError
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.http.server import serve as start
from intrr_rec.serving.http.workers.team import FOLDER
from tests.serving.flood import Flood
from tests.serving.process import Server, serving

CONNECTIONS = 64


@pytest.fixture(scope="module")
def place(bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a test may replace."""
    return Path(shutil.copytree(bundles["path"].path, tmp_path_factory.mktemp("served") / "bundle"))


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with serving(place, "--workers", "2", f"serve.max_connections={CONNECTIONS}") as running:
        running.until(lambda: serve(running, served(running)) == 2)
        yield running


def served(server: Server) -> str:
    return str(server.ask("GET", "/healthz").body["bundle"])


def serve(server: Server, bundle: str) -> float:
    """How many processes serve a bundle."""
    return server.figure(f'intrr_bundle{{hash="{bundle}"}}')


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def answered(server: Server) -> float:
    return server.figure('intrr_requests_total{route="/recommend",status="200"}')


@pytest.mark.slow
def test_counters_and_limits_are_those_of_all_workers(server: Server) -> None:
    before, spent = answered(server), [sum(each.cpu_times()[:2]) for each in workers(server)]
    asks = [lambda: server.recommend(history=[1, 2, 3])] * 8
    answers = [answer for _ in range(20) for answer in server.together(asks)]
    assert {(answer.status, str(answer.body)) for answer in answers} == {(200, str(answers[0].body))}
    server.until(lambda: answered(server) - before == len(answers))  # counted right after it is sent
    assert all(sum(each.cpu_times()[:2]) > was for each, was in zip(workers(server), spent, strict=True)), "all answer"
    assert server.figure("process_cpu_seconds_total") > sum(spent)
    with Flood(server, "silent", 4 * CONNECTIONS) as flood:
        server.until(lambda: server.figure('intrr_connections_ended_total{reason="room"}') >= 3 * CONNECTIONS)
        assert flood.alive() <= CONNECTIONS
        assert server.recommend(history=[1]).status == 200
    server.until(lambda: answered(server) - before == len(answers) + 1)  # so that no other test counts it


@pytest.mark.slow
def test_a_reload_is_one_of_every_worker_and_one_that_died_is_replaced(server: Server, place: Path, runs) -> None:
    old, total = served(server), answered(server)
    ended, statuses = threading.Event(), list[int]()

    def ask() -> None:
        while not ended.is_set():
            statuses.append(server.recommend(history=[1, 2, 3]).status)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    write_bundle(runs["dense"], place)
    answer = server.ask("POST", "/admin/reload")
    new = answer.body["bundle"]
    assert (answer.status, serve(server, new), serve(server, old)) == (200, 2, 0) and new != old
    ended.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    server.until(lambda: answered(server) - total == len(statuses))

    victim, other = workers(server)
    victim.kill()
    server.until(lambda: not victim.is_running() and victim not in workers(server))
    assert serve(server, new) == 1 and server.recommend(history=[1]).status == 200
    server.until(lambda: answered(server) - total == len(statuses) + 1)  # what a dead worker counted is not lost
    write_bundle(runs["path"], place)
    server.process.send_signal(signal.SIGHUP)  # while the new worker reads its bundle
    server.until(lambda: serve(server, old) == 2)
    assert other in workers(server) and len(workers(server)) == 2

    (place / "settings.json").write_text("{}")
    answer = server.ask("POST", "/admin/reload")
    assert answer.status == 409 and serve(server, old) == 2


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_all_end_together(bundles, sign: signal.Signals) -> None:
    """Also where only one worker has begun to answer, and where the process that started them is killed."""
    with serving(bundles["path"].path, "--workers", "2", "serve.batch_wait_ms=500", "serve.max_batch=64") as server:
        each = workers(server)
        connection: http.client.HTTPConnection = server.connect()
        connection.request("POST", "/recommend", b'{"history": [1]}', {"Content-Type": "application/json"})
        server.until(lambda: server.figure("intrr_requests_in_flight") >= 2)
        server.process.send_signal(sign)
        assert connection.getresponse().status == 200
        assert server.process.wait(60) == (0 if sign != signal.SIGKILL else -sign)
        assert not psutil.wait_procs(each, 60)[1]


@pytest.mark.slow
def test_a_bundle_that_is_not_fit_is_said_once(bundles, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bundles["path"].path, tmp_path / "bundle"))
    (broken / "settings.json").write_text("{}")
    with (
        pytest.raises(AssertionError, match=r"settings\.json was altered") as caught,
        serving(broken, "--workers", "3"),
    ):
        pass
    assert len(re.findall("intrr: ", str(caught.value))) == 1


def test_every_worker_has_its_share() -> None:
    share = ServeConfig(max_connections=100, max_in_flight=9, max_queue=1).share(3)
    assert (share.max_connections, share.max_in_flight, share.max_queue) == (33, 3, 1)
    with pytest.raises(ConfigError, match="max_connections of at least 1600"):
        ServeConfig().share(100)


def test_the_socket_of_workers_is_refused_to_people(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(ConfigError, match="--socket: is what `intrr serve --workers N` hands its workers"):
        start(bundles["path"].path, host="127.0.0.1", port=0, settings=ServeConfig(), handed=7)
