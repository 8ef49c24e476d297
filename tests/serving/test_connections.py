"""Connections that keep the server waiting take nothing from others; and every refusal is JSON that tells no secret."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from intrr_rec.config import ServeConfig
from intrr_rec.errors import ConfigError
from intrr_rec.serving.http.connections import fit_to_open_files
from intrr_rec.serving.http.guard import require_usable_token
from intrr_rec.serving.http.problems import without_places
from tests.serving.flood import KINDS, Flood, get, open_files, slowest, taken_in
from tests.serving.process import Server, serving

PROBES = ("/healthz", "/readyz", "/", "/static/app.js")
SHORT = ("serve.header_seconds=1", "serve.body_seconds=4", "serve.send_seconds=1", "serve.keep_alive_seconds=1")
TOKEN = "of-the-connections-test"
MOST_LOG = 1 << 20


@pytest.fixture(scope="module")
def server(bundles) -> Iterator[Server]:
    with serving(bundles["path"].path, *SHORT) as running:
        yield running


def tell(server: Server, *parts: bytes, finish: bool = False, pause: float = 0.0) -> bytes:
    """All that a server answers to these bytes, until it closes or has been silent for long."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while data := connection.recv(1 << 16):
            said += data
        return said


def of_json(said: bytes) -> tuple[int, str]:
    """The status and the error of an answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), said
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def posted(body: bytes, length: int | None = None, more: str = "") -> bytes:
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) if length is None else length}\r\n"
    )
    return f"{head}Content-Type: application/json\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_keeps_the_server_waiting_is_ended(server, kind):
    reason = {"silent": "header", "half a header": "header", "a trickling body": "body", "no reading": "answer"}.get(
        kind
    )
    number = 3 if kind == "no reading" else 20
    before = ended(server, reason or "")
    with Flood(server, kind, number) as flood:
        # Who reads nothing does not see the end either.
        server.until(lambda: flood.alive() == 0 if kind != "no reading" else ended(server, "answer") == before + number)
    assert reason is None or ended(server, reason) == before + number
    assert server.recommend(history=[1]).status == 200


def ended(server: Server, reason: str) -> float:
    return server.figure(f'intrr_connections_ended_total{{reason="{reason}"}}')


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ([b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "], 408, "header"),
        ([posted(b'{"history": [', 50)], 408, "body"),
        ([b"\x00\x01\r\n\r\n"], 400, "HTTP"),
        ([b"GET /healthz HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n"], 400, "host"),
        ([b"GET /healthz HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n"], 400, "host"),
        ([posted(b"{", more="Connection: close\r\n")], 422, "not JSON"),
        ([b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"], 405, "Method"),
        ([b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"], 404, "Not Found"),
    ],
)
def test_every_refusal_is_json(server, parts, status, reason):
    told, error = of_json(tell(server, *parts))
    assert told == status and reason.lower() in error.lower()


@pytest.mark.slow
def test_a_slow_body_is_told_from_a_steady_one(bundles):
    """2,000 bytes within 4 s pass where 500 a second are asked for; 8 do not, though each comes in time."""
    body = b'{"history": [1]' + b" " * 2000 + b"}"
    halves = posted(body, more="Connection: close\r\n")
    with serving(bundles["path"].path, "serve.body_seconds=60") as server:
        cuts = [halves[at : at + 550] for at in range(0, len(halves), 550)]
        assert tell(server, *cuts, pause=0.8).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        said = tell(server, posted(b'{"hist', 60), *[b" "] * 4, pause=0.8)
        assert of_json(said)[0] == 408 and time.monotonic() - started < 10


CHUNKED = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b'1c\r\n{"history": [1, 2], "k": 3} \r\n0\r\n\r\n'


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
@pytest.mark.parametrize("whole", [posted(b'{"history": [1, 2], "k": 3}'), CHUNKED + ONE_CHUNK])
def test_a_body_may_come_in_any_pieces(server, whole, piece):
    """Also the next request of the connection, whose first bytes come with the last of the body."""
    both = whole * 2
    cuts = [both[at : at + piece] for at in range(0, len(both), piece)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in cuts:
            connection.sendall(cut)
            time.sleep(0.001)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while data := connection.recv(1 << 16):
            said += data
    assert said.count(b"HTTP/1.1 200") == 2, said


def test_a_half_closed_request_gets_its_answer(server):
    one = posted(b'{"history": [1, 2], "k": 3}')
    assert len(json.loads(tell(server, one, finish=True).partition(b"\r\n\r\n")[2])["items"]) == 3
    assert tell(server, one * 3, finish=True).count(b"HTTP/1.1 200") == 3
    assert tell(server, one[:-5], finish=True) == b""


@pytest.mark.parametrize("answered", ["before the body", "after the body"])
def test_a_body_that_breaks_after_its_request_began_is_one_refusal(bundles, answered):
    """What works on the request is not heard any more: two answers to one request would be a traceback in the log."""
    token = TOKEN if answered == "before the body" else None
    head = CHUNKED.replace(b"Host:", b"Connection: close\r\nHost:")
    with serving(bundles["path"].path, token=token) as server:
        for broken in (b"zz\r\n", b"f" * 30 + b"\r\n", b"5\r\nhelloXX", b"5;x\r\n\x00\r\n0\r\n\r\nhello"):
            assert tell(server, head + broken).startswith(b"HTTP/1.1 4")
        assert server.ask("GET", "/healthz").status == 200
        assert "Traceback" not in "".join(server.log), "".join(server.log)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/static/app.js", "/items?query=1"])
def test_head_is_answered_as_get_without_a_body(server, path):
    got, head = server.ask("GET", path), server.ask("HEAD", path)
    assert (got.status, head.status, head.body) == (200, 200, "") and got.body
    assert head.headers["content-length"] == got.headers["content-length"]


SECRET = "WORD-OF-THE-CLIENT"


NUMBER = 1_700_000_000_777  # milliseconds


@pytest.mark.parametrize(
    "request_",
    [
        {"history": [1], "timestamps": [NUMBER]},
        {"history": [1], "filters": {"newer_than": NUMBER}},
        {"history": [1], "k": NUMBER},
    ],
)
def test_no_refusal_repeats_a_number_of_the_client(server, request_):
    answer = server.ask("POST", "/recommend", request_)
    assert answer.status == 422 and str(NUMBER)[:10] not in answer.body["error"]
    assert "k" in request_ or "milliseconds" in answer.body["error"]


@pytest.mark.parametrize(
    "request_",
    [
        {SECRET: 1, "history": []},
        {"history": [], "filters": {SECRET: []}},
        {"history": [], "filters": {"where": {SECRET: "x"}}},
        {"history": [], "filters": {"where": {SECRET: [1]}}},
        {"history": [], "filters": {"where": {SECRET: ["x"]}}},
        {"history": [{SECRET: 1}]},
        {"history": [[SECRET]]},
        {"history": SECRET},
        {"history": [], "k": SECRET},
        SECRET,
        [SECRET],
    ],
)
def test_no_refusal_repeats_a_word_of_the_client(server, request_):
    answer = server.ask("POST", "/recommend", request_)
    assert answer.status == 422 and SECRET not in answer.body["error"] and len(answer.body["error"]) < 300
    for path in (f"/{SECRET}", f"/items/{SECRET}", f"/items?query=1&limit={SECRET}", f"/static/{SECRET}"):
        refused = server.ask("GET", path)
        assert refused.status in (404, 422) and SECRET not in json.dumps([refused.body, refused.headers])


def test_no_refusal_tells_where_the_bundle_is(bundles, tmp_path: Path):
    place = shutil.copytree(bundles["path"].path, tmp_path / "a bundle")
    with serving(place) as server:
        for file in sorted(place.iterdir()):
            file.write_bytes(b"broken")
            for answer in (server.ask("POST", "/admin/reload"), server.ask("GET", "/items/29")):
                assert answer.status in (200, 409, 503)
                assert answer.status == 200 or not set(place.parts[1:]) & set(answer.body["error"].split("/"))
                assert answer.status == 200 or str(tmp_path) not in answer.body["error"]
        shutil.rmtree(place)
        answer = server.ask("POST", "/admin/reload")
        assert answer.status == 409 and str(tmp_path) not in answer.body["error"]


def test_a_message_loses_the_places_it_names_and_all_else_where_others_remain(tmp_path: Path):
    assert without_places(f"{tmp_path}/x.json: cut short; export again", tmp_path) == (
        "the bundle/x.json: cut short; export again"
    )
    assert "/etc" not in without_places("cannot read /etc/passwd", tmp_path)
    assert without_places("400/500 read and/or written", tmp_path) == "400/500 read and/or written"


@pytest.mark.parametrize("token", [" ", "two words", "secret\n", "\tx", "caf\xe9", "a\x00b"])
def test_a_token_that_no_request_can_carry_is_refused(token):
    with pytest.raises(ConfigError, match="INTRR_TOKEN"):
        require_usable_token(token, "INTRR_TOKEN")
    assert require_usable_token("", "INTRR_TOKEN") is None


def test_control_characters_of_a_client_reach_no_log(server):
    spoof = b"GET /%0d%0a2026-01-01%20FORGED%1b[31m HTTP/1.1\r\nHost: localhost\r\nUser-Agent: FORGED\x1b\r\n\r\n"
    tell(server, spoof, finish=True)
    server.ask("POST", "/recommend", {"history": ["\r\nFORGED\x1b[31m"], "k": "\r\nFORGED"})
    server.ask("GET", "/items/%0d%0aFORGED%1b")
    assert not [line for line in server.log if "FORGED" in line or "\x1b" in line]


def test_connections_fit_into_the_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The tests before this one may have left many files open.
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 200, before[1]))
        fitted = fit_to_open_files(ServeConfig())
        assert fitted.max_connections == 1024, "the soft limit is raised"
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1024
        huge = fit_to_open_files(ServeConfig(max_connections=10**9, max_in_flight=10**9))
        assert huge.max_connections < before[1] and huge.max_in_flight < huge.max_connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_few_open_files_are_said_before_anything_is_read(bundles):
    with (
        pytest.raises(AssertionError, match="ulimit -n 140: too few open files"),
        serving(bundles["path"].path, open_files=140),
    ):
        pass


# Connections, limit of the server's open files, settings; every other one asks for a token.
FLOODS = [
    (kind, number, files, settings, TOKEN if place % 2 else None)
    for number, files, settings in (
        (1_024, 1_024, ("--workers", "2")),
        (10_000, 1_024, ()),
        (10_000, 16_000, ("serve.max_connections=12000",)),
    )
    for place, kind in enumerate(("silent", "half a header", "idle after an answer", "a trickling body"))
]


# A machine that is busy with other tests is slow once or twice, a server that connections keep from its work every time.
ROUNDS = 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number", "files", "settings", "token"), FLOODS)
def test_probes_are_answered_within_a_second_whatever_is_connected(bundles, kind, number, files, settings, token):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < max(files, number + 500):
        pytest.skip(f"needs ulimit -Hn {max(files, number + 500)}, here it is {hard}")
    with open_files(number + 500), serving(bundles["path"].path, *settings, token=token, open_files=files) as server:
        with Flood(server, kind, number, stubborn=number < 10_000) as flood:
            taken_in(server, PROBES[0])
            for _ in range(ROUNDS):
                worst = slowest(server, PROBES, 5, lambda path: get(server, path))
                if max(worst.values()) < 1:
                    break
            assert server.recommend(history=[1, 2]).status == 200
            assert len(flood.sockets) == number
        log = "".join(server.log)
    print(kind, number, files, worst, len(log))
    assert max(worst.values()) < 1, worst
    assert len(log) < MOST_LOG and "Traceback" not in log


@pytest.mark.slow
def test_256_trickling_bodies_starve_nobody(bundles):
    with serving(bundles["path"].path, token=TOKEN) as server, Flood(server, "a trickling body", 256, stubborn=True):
        statuses = [server.recommend(history=[1, 2]).status for _ in range(200)]
        assert statuses == [200] * 200
