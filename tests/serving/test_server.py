"""The server in a real process: what it answers, and what it refuses."""

from __future__ import annotations

import gzip
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import ServeConfig
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.serving.bundle.bundle import ITEM_TABLE, KIND, Bundle, this_device
from intrr_rec.serving.http import backend as backend_module
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.schemas import Filters, RecommendRequest
from intrr_rec.serving.http.server import serve
from tests.serving.process import Server, serving

TOKEN = "a-secret-of-the-tests"
UNKNOWN = [10**6, "no such item"]


@pytest.fixture(scope="module")
def bundle(bundles) -> Bundle:
    return bundles["time"]


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with serving(bundle.path) as running:
        yield running


@pytest.fixture(scope="module")
def tight(bundles) -> Iterator[Server]:
    """One with little room, and a token."""
    settings = (
        "serve.max_batch=2",  # with room for one in the queue, each waits in vain for a second, and others are refused
        "serve.max_queue=1",
        "serve.batch_wait_ms=400",
        "serve.max_history=20",
        "serve.max_filter_items=3",
        "serve.max_k=20",
        "serve.body_seconds=0.5",
        "serve.max_body_bytes=2000",
    )
    with serving(bundles["path"].path, *settings, token=TOKEN) as running:
        yield running


def test_unknown_items_are_ignored_and_counted(server):
    before = server.figure("intrr_unknown_items_total")
    known = server.recommend(history=[1, "2", 3], timestamps=[1, 2, 3], time=9).body
    mixed = server.recommend(history=[1, UNKNOWN[0], "2", UNKNOWN[1], 3], timestamps=[1, 7, 2, 8, 3], time=9).body
    assert mixed.pop("unknown_items") == 2 and known.pop("unknown_items") == 0
    assert [item["item"] for item in mixed["items"]] == [item["item"] for item in known["items"]]
    assert server.figure("intrr_unknown_items_total") == before + 2


@pytest.mark.parametrize("history", [[], UNKNOWN], ids=["empty", "nothing known"])
def test_without_a_history_the_popular_items_are_the_default_and_the_answer_says_so(server, bundle, history):
    answer = server.recommend(history=history, timestamps=[1] * len(history)).body
    popular = bundle.items.own(bundle.items.by_popularity_I[:5].tolist())
    assert answer["source"] == "popularity"
    assert [item["item"] for item in answer["items"]] == popular


def test_filters_hold_and_still_give_k(server):
    seen, denied = ["4", "5"], ["6", "7", 10**9]
    wish = {"history": seen, "timestamps": [1, 2], "k": 10}
    found = server.recommend(**wish, filters={"deny": denied, "exclude_seen": True}).body["items"]
    assert len(found) == 10 and not {item["item"] for item in found} & {*seen, "6", "7"}
    only = server.recommend(**wish, filters={"allow": [1, 2, 3]}).body["items"]
    assert {item["item"] for item in only} == {"1", "2", "3"}


def test_withdrawn_items_are_followed_and_a_file_that_is_gone_changes_nothing(bundles, tmp_path):
    path = tmp_path / "gone.txt"
    path.write_text("3\n4\nno such item\n")
    wish = {"history": ["5", "6"], "k": 20, "filters": {"allow": [1, 2, 3, 4]}}
    with serving(bundles["path"].path, "serve.follow_seconds=0.05", "--withdrawn", str(path)) as running:
        assert running.ask("GET", "/bundle").body["withdrawn"] == 2
        assert {item["item"] for item in running.recommend(**wish).body["items"]} == {"1", "2"}
        path.write_text("1\n")
        running.until(lambda: running.ask("GET", "/bundle").body["withdrawn"] == 1)
        assert {item["item"] for item in running.recommend(**wish).body["items"]} == {"2", "3", "4"}
        path.unlink()
        running.until(lambda: any("what was withdrawn stays so" in line for line in running.log))
        assert {item["item"] for item in running.recommend(**wish).body["items"]} == {"2", "3", "4"}
        assert running.ask("POST", "/admin/reload").status == 409
        path.write_text("")
        running.until(lambda: running.ask("GET", "/bundle").body["withdrawn"] == 0)
        assert {item["item"] for item in running.recommend(**wish).body["items"]} == {"1", "2", "3", "4"}


def test_only_items_that_nobody_had_before_a_moment(server, bundle):
    moment = int(pq.read_table(bundle.path / "items.parquet")["first_seen"].to_numpy().max())
    newest = set(bundle.items.own(np.flatnonzero(bundle.items.newer(moment))))
    answer = server.recommend(history=["4"], timestamps=[1], k=10, filters={"newer_than": moment}).body
    assert 0 < len(newest) < 10 and {item["item"] for item in answer["items"]} == newest


def test_only_items_of_some_values_and_another_bundles_columns_lead_to_nothing(bundles, tmp_path):
    old = bundles["path"]
    with artefact.writing(tmp_path / "wide", KIND, {}) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        table = pq.read_table(old.path / ITEM_TABLE)
        parity = pa.array([str(row % 2) for row in range(len(table))])
        pq.write_table(table.append_column("parity", parity), draft.path / ITEM_TABLE)
        draft.counts |= old.manifest.counts
    odd = RecommendRequest(history=[4], k=10, filters=Filters(where={"parity": ["1"]}))
    wide, narrow = Backend.load(tmp_path / "wide", this_device()), Backend.load(old.path, this_device())
    assert wide.lacks(odd) is None and "there is none" in (narrow.lacks(odd) or "")
    found = wide.recommend([odd, RecommendRequest(history=[4], k=10)])
    places = old.items.dense(item.item for item in found[0].items)
    assert len(places) == 10 and all(place % 2 for place in places)
    assert found[1].items != found[0].items
    assert narrow.recommend([odd])[0].items == []
    shutil.rmtree(tmp_path / "wide")  # its columns are still those of the bundle that is served
    assert wide.recommend([RecommendRequest(history=[4], k=3, filters=Filters(where={"parity": ["0"]}))])[0].items


def test_a_trace_shows_the_beam_that_led_to_the_answer(server):
    answer = server.recommend(history=[1, 2], timestamps=[1, 2], k=4, beam=6, trace=True).body
    levels = answer["beam"]
    assert [len(prefix["codes"]) for level in levels for prefix in level[:1]] == list(range(1, len(levels) + 1))
    assert all(len(level) <= 6 for level in levels)
    kept = [tuple(prefix["codes"]) for prefix in levels[-1]]
    assert kept[:4] == [tuple(item["sid"]) for item in answer["items"]]
    for level in levels:
        log_p = [prefix["log_p"] for prefix in level]
        assert log_p == sorted(log_p, reverse=True)


def test_an_item_shows_its_semantic_id_its_redistribution_and_its_neighbours(server, bundle):
    [itself] = bundle.items.dense(["11"])
    answer = server.ask("GET", "/items/11").body
    assert (answer["item"], answer["sid"]) == ("11", bundle.codes_IL[itself].tolist())
    assert [len(level) for level in answer["redistribution"]] == list(bundle.settings.codes_per_level)
    assert [sum(level) for level in answer["redistribution"]] == pytest.approx([1.0] * len(answer["sid"]), abs=1e-5)
    similar = {near["item"]: near["similarity"] for near in answer["neighbours"]}
    assert "11" not in similar and list(similar.values()) == sorted(similar.values(), reverse=True)
    assert server.ask("GET", "/items/nothing").status == 404


def test_nearest_items_are_looked_for_around_an_item_in_the_trie(bundle, monkeypatch):
    whole = Backend(bundle).item("11").neighbours
    for looked_at, same in ((bundle.n_items, True), (bundle.n_items - 3, False), (40, False)):
        monkeypatch.setattr(backend_module, "LOOKED_AT", looked_at)
        found = Backend(bundle).item("11").neighbours
        assert (found == whole) or not same
        assert len(found) == len(whole) and all(near.similarity <= whole[0].similarity for near in found)
        assert [near.similarity for near in found] == sorted((near.similarity for near in found), reverse=True)


def test_search_finds_words_and_ids(server):
    assert server.ask("GET", "/items?query=17").body["items"][0]["item"] == "17"
    assert len(server.ask("GET", "/items?query=1&limit=3").body["items"]) == 3
    assert server.ask("GET", "/items?query=zzz").body["items"] == []
    assert server.ask("GET", "/items?query=%20").body["items"] == []


def test_it_says_that_it_lives_is_ready_and_what_it_counted(server, bundle):
    assert server.ask("GET", "/healthz").body == {"status": "ok", "bundle": bundle.manifest.content_hash}
    assert server.ask("GET", "/readyz").status == 200
    before = server.figure('intrr_requests_total{route="/recommend",status="200"}')
    server.recommend(history=[])
    assert server.figure('intrr_requests_total{route="/recommend",status="200"}') == before + 1
    assert server.figure("intrr_batch_size_count") > 0


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, "history"),
        ([], "the body must be a JSON object, sent with the header Content-Type: application/json"),
        ({"history": [1.5]}, "history.0: an item id is text of at most 1,024 characters, or a whole number of 64 bits"),
        ({"history": ["1", None]}, "history.1: an item id is text"),
        ({"history": ["x" * 1025]}, "history.0: an item id is text of at most 1,024 characters"),
        ({"history": [2**63]}, "history.0: an item id is text"),
        ({"history": [], "filters": {"deny": [[]]}}, "filters.deny.0: an item id is text"),
        ({"history": [], "filters": {"where": {"color": [None]}}}, "where.0: a value is text, a number, true or false"),
        (
            {"history": [], "filters": {"any_of": [{"without": {"SECRET": [None]}}]}},
            "filters.any_of.0.without.0: a value is text, a number, true or false",
        ),
        (
            {"history": [], "filters": {"any_of": [{"SECRET": {}}]}},
            "filters.any_of.0: unknown key; known are where, without, ranges",
        ),
        (
            {"history": [], "filters": {"ranges": {"SECRET": {"at_lest": 1}}}},
            "filters.ranges: unknown key; known are at_least, below",
        ),
        ({"history": [True]}, "history"),
        ({"history": [1], "timestamps": []}, "as many"),
        ({"history": [1]}, "this model reads times"),
        ({"history": [], "k": 0}, "k"),
        ({"history": [], "k": 10, "beam": 5}, "beam"),
        ({"history": [], "kk": 1}, "unknown key; known are history, "),
        ({"history": [], "filters": {"allow": 3}}, "allow"),
        ({"history": [], "filters": {"where": {"color": ["red"]}}}, "filters: no item can pass; there is none"),
        ({"history": [], "filters": {"where": {"color": "red"}}}, "filters.where: Input should be a valid list"),
        ({"history": [], "filters": {"newer_than": 1.5}}, "newer_than"),
        (
            {"history": ["1"], "timestamps": [1_700_000_000_000]},
            "no time in seconds since 1970; milliseconds and finer units are refused",
        ),
        ({"history": [], "k": 10**6}, "at most"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_that_says_where(server, request_, reason):
    answer = server.ask("POST", "/recommend", request_)
    assert answer.status == 422 and reason in answer.body["error"] and "\n" not in answer.body["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_told_which_one_is_read(server, kind):
    answer = server.ask("POST", "/recommend", b'{"history": []}', headers={"Content-Type": kind})
    assert answer.status == 422 and "must be a JSON object" in answer.body["error"]


def test_a_packed_body_is_told_to_be_sent_as_it_is(server):
    answer = server.ask("POST", "/recommend", gzip.compress(b'{"history": []}'), {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.body == {
        "error": "the body cannot be read: packed, not UTF-8, too deep, or with a number too long"
    }


def test_pages_of_other_sites_are_kept_out(server):
    assert server.ask("GET", "/healthz", headers={"Host": "elsewhere.example"}).status == 400
    assert server.ask("POST", "/admin/reload", headers={"Origin": "http://elsewhere.example"}).status == 403
    page = server.ask("GET", "/")
    assert page.status == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert server.ask("GET", "/static/app.js").status == 200
    assert server.ask("GET", "/static/%2e%2e/app.py").status == 404


def test_a_token_is_asked_for_but_not_by_probes_and_the_page(tight):
    for given in ("", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"):
        for method, path in (
            ("POST", "/recommend"),
            ("GET", "/items?query=1"),
            ("POST", "/admin/reload"),
            ("GET", "/metrics"),
        ):
            assert tight.ask(method, path, headers={"Authorization": given}).status == 401
    for path in ("/healthz", "/readyz", "/", "/static/style.css"):
        assert tight.ask("GET", path, headers={"Authorization": ""}).status == 200
    assert tight.recommend(history=[1]).status == 200


def test_limits_are_refused_with_their_size(tight):
    assert tight.ask("POST", "/recommend", b" " * 2001).status == 413
    chunks = iter([b" " * 500] * 5)
    connection = tight.connect()
    connection.request("POST", "/recommend", chunks, {"Authorization": f"Bearer {TOKEN}"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    for wish, reason in (
        ({"history": list(range(21))}, "history: at most 20"),
        ({"history": [], "k": 21}, "k: at most 20"),
        ({"history": [], "filters": {"deny": [1, 2, 3, 4]}}, "filters.deny: at most 3"),
    ):
        answer = tight.recommend(**wish)
        assert answer.status == 422 and reason in answer.body["error"]


def test_a_body_that_does_not_arrive_is_given_up(tight):
    with socket.create_connection(("127.0.0.1", tight.port), timeout=30) as slow:
        head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 50\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_overload_is_answered_429_and_passes(tight):
    answers = tight.together([lambda: tight.recommend(history=[1, 2, 3])] * 20)
    busy = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    assert tight.recommend(history=[1]).status == 200
    assert tight.figure('intrr_requests_total{route="/recommend",status="429"}') == len(busy)


def test_an_address_others_can_reach_needs_a_token(bundles):
    with pytest.raises(ConfigError, match="INTRR_TOKEN"):
        serve(bundles["path"].path, host="0.0.0.0", port=0, settings=ServeConfig())


def test_a_missing_bundle_is_one_line(tmp_path: Path):
    with pytest.raises(ArtefactError, match="no such bundle"):
        Backend.load(tmp_path / "none", this_device())
