"""The page in a real Chromium: from a search to a recommendation, and how it came about."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.io import artefact
from intrr_rec.serving.bundle.bundle import ITEM_TABLE, KIND
from tests.serving.process import Server, serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser' (make test-slow installs it)")
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
LONG_TITLE = "Everlasting wireless over-ear headphones with a title as long as shops like to write them, black"
# Elements whose text does not fit into them, and those that stick out of the window or of their card.
CUT = """
() => [...document.querySelectorAll('main *, header *')].filter((e) => {
  if (!e.checkVisibility() || e.closest('svg, .visually-hidden') || e.type === 'range') return false;
  const box = e.getBoundingClientRect(), card = e.closest('.card')?.getBoundingClientRect();
  const outside = box.right > innerWidth + 1 || (card && (box.right > card.right + 1 || box.left < card.left - 1));
  const clipped = getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1;
  return box.width > 0 && (outside || clipped);
}).map((e) => e.outerHTML.slice(0, 160))
"""
# Where pictures of the page are left to be looked at; none are made without it.
PICTURES = os.environ.get("INTRR_TEST_PICTURES")
TOKEN = "a-secret-of-the-page"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def server(bundles) -> Iterator[Server]:
    with serving(bundles["path"].path, token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def timed(bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose model reads times, by the shipped recipe, and whose items have long titles."""
    old, place = bundles["best_with_times"], tmp_path_factory.mktemp("long") / "bundle"
    with artefact.writing(place, KIND, {}) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        table = pq.read_table(old.path / ITEM_TABLE)
        titles = pa.array([f"{own} {LONG_TITLE}" for own in table["item_id"].to_pylist()])
        place_of_title = table.schema.get_field_index("title")
        pq.write_table(table.set_column(place_of_title, "title", titles), draft.path / ITEM_TABLE)
        draft.counts |= old.manifest.counts
    with serving(place, token=TOKEN) as running:
        yield running


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    with opened_page(server) as opened:
        yield opened


@pytest.fixture
def timed_page(timed: Server) -> Iterator[Any]:
    with opened_page(timed) as opened:
        yield opened


@contextmanager
def opened_page(server: Server) -> Iterator[Any]:
    """The page after its token is given; what its console complains of fails the test."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1360, "height": 900}, reduced_motion="reduce")
        opened.set_default_timeout(PATIENCE_MS)
        complaints: list[str] = []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        opened.goto(f"http://127.0.0.1:{server.port}/")
        opened.fill("#token", TOKEN)
        opened.click("#login button")
        opened.wait_for_selector("#list li")
        yield opened
        browser.close()
        assert complaints == []


def soon(page: Any, selector: str) -> Any:
    """What is to hold of these elements before long."""
    playwright.expect.set_options(timeout=PATIENCE_MS)
    return playwright.expect(page.locator(selector))


def shown(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def test_it_leads_from_a_search_to_a_recommendation_and_shows_its_way(page, server):
    assert page.inner_text("#source") == "popular items"
    for item in ("7", "8"):
        page.fill("#query", item)
        page.locator("#found li", has_text=item).first.click()
    soon(page, "#history li").to_have_count(2)
    page.wait_for_selector("#list[aria-busy=false]")

    asked = {"history": ["7", "8"], "k": 10, "beam": 20, "filters": {"exclude_seen": False}, "trace": True}
    expected = server.ask("POST", "/recommend", asked).body
    soon(page, "#list .title").to_have_text([item["title"] for item in expected["items"]])
    assert shown(page, "#list .sid")[0].split() == [str(code) for code in expected["items"][0]["sid"]]

    assert page.locator("#beam-view g.nodes rect").count() == sum(map(len, expected["beam"]))
    page.locator("#steps button", has_text="1").first.click()
    assert page.locator("#beam-view g.nodes rect:visible").count() >= len(expected["beam"][0])
    later = page.locator("#beam-view .nodes .later").count()
    assert later >= sum(map(len, expected["beam"][1:]))

    page.click("#tab-tree")
    assert page.locator("#tree .node button").count() == len(expected["items"])
    page.locator("#tree .node button").nth(2).click()
    chosen = expected["items"][2]
    soon(page, "#heat-note strong").to_have_text(chosen["title"])
    detail = server.ask("GET", f"/items/{chosen['item']}").body
    cells = [
        page.locator("#heat figure").nth(level).locator("rect:not(.own)").count() for level in range(len(chosen["sid"]))
    ]
    assert cells == [len(level) for level in detail["redistribution"]]
    assert shown(page, "#near .near-title") == [near["title"] for near in detail["neighbours"]]


def test_it_is_used_by_keyboard_and_keeps_its_theme(page):
    page.focus("#query")
    page.keyboard.type("1")
    page.wait_for_selector("#found li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#query", "aria-activedescendant") == "found-1"
    second = shown(page, "#found .found-title")[1]
    page.keyboard.press("Enter")
    page.wait_for_selector("#history li")
    assert shown(page, "#history .found-title") == [second]
    page.click("#theme")
    dark = page.evaluate("document.documentElement.dataset.theme")
    assert page.evaluate("localStorage.getItem('intrr-theme')") == dark == "dark"
    page.click("#clear")
    soon(page, "#source").to_have_attribute("data-source", "popularity")
    unnamed = "[...document.querySelectorAll('button, input')].filter(e => e.offsetParent && !e.labels?.length && !e.ariaLabel && !e.textContent.trim())"
    assert page.evaluate(f"{unnamed}.map(e => e.outerHTML)") == []


def add(page: Any, *items: str) -> None:
    for item in items:
        with page.expect_response(lambda answer, item=item: answer.url.endswith(f"query={item}")):
            page.fill("#query", item)
        page.locator("#found li").first.click()
        soon(page, "#found li").to_have_count(0)
    settled(page)


def settled(page: Any) -> None:
    page.wait_for_selector("#list[aria-busy=false]", state="attached")


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


def test_a_model_that_reads_times_is_sent_the_times_of_the_history(timed_page, timed):
    sent: list[dict[str, Any]] = []
    timed_page.on("request", lambda r: sent.append(json.loads(r.post_data)) if r.method == "POST" else None)
    add(timed_page, "7", "8", "9")
    soon(timed_page, "#source").to_have_text("from the model")
    soon(timed_page, "#history .when").to_have_count(3)
    asked = sent[-1]
    day = 86_400
    assert asked["history"] == ["7", "8", "9"]
    assert [after - before for before, after in zip(asked["timestamps"], asked["timestamps"][1:], strict=False)] == [
        day
    ] * 2
    assert abs(asked["timestamps"][-1] - time.time()) < 300 and asked["time"] >= asked["timestamps"][-1]
    soon(timed_page, "#list .title").to_have_text(
        [item["title"] for item in timed.ask("POST", "/recommend", asked).body["items"]]
    )

    first = timed_page.locator("#history .when").first
    first.fill("2020-02-03T04:05")
    first.dispatch_event("change")
    timed_page.wait_for_function("document.querySelector('#history .when').value === '2020-02-03T04:05'")
    settled(timed_page)
    moment = timed_page.evaluate("new Date('2020-02-03T04:05').getTime() / 1000")
    assert sent[-1]["timestamps"][0] == moment and sent[-1]["timestamps"] == sorted(sent[-1]["timestamps"])
    last = timed_page.locator("#history .when").last
    last.fill("2019-01-01T00:00")
    last.dispatch_event("change")
    soon(timed_page, "#history .found-title").to_contain_text(["9 ", "7 ", "8 "])
    settled(timed_page)
    assert sent[-1]["history"] == ["9", "7", "8"] and sent[-1]["timestamps"] == sorted(sent[-1]["timestamps"])


def test_the_page_asks_as_the_api_does_by_default(page):
    assert not page.is_checked("#seen")


def test_a_failed_request_leaves_no_old_list_and_the_next_search_leaves_its_message(page):
    add(page, "7")
    assert page.locator("#list li").count() > 0
    page.route("**/recommend", lambda route: route.fulfill(status=503, json={"error": "not today"}))
    add(page, "8")
    soon(page, "#problem").to_have_text("not today")
    for kept in ("#list li", "#tree li", "#heat figure", "#near li"):
        assert page.locator(kept).count() == 0
    assert not page.is_visible("#beam-card") and page.inner_text("#source") == ""
    page.fill("#query", "9")
    page.wait_for_selector("#found li")
    assert page.inner_text("#problem") == "not today" and page.is_visible("#problem")
    page.route("**/items?**", lambda route: route.abort())
    page.fill("#query", "10")
    soon(page, "#search-problem").to_be_visible()
    assert page.locator("#found li").count() == 0 and page.is_visible("#problem")
    page.unroute("**/recommend")
    page.locator("#k").fill("7")
    soon(page, "#list li").to_have_count(7)
    assert not page.is_visible("#problem") and page.is_visible("#search-problem")


def test_a_pending_request_marks_the_old_list(page):
    add(page, "7")
    waiting: list[Any] = []
    page.route("**/recommend", lambda route: waiting.append(route))
    page.locator("#k").fill("4")
    soon(page, "#source").to_have_text("updating…")
    assert page.evaluate("document.querySelector('#list').inert && document.querySelector('#heat-card').inert")
    while not waiting:
        page.wait_for_timeout(20)
    waiting[0].continue_()
    soon(page, "#list li").to_have_count(4)
    assert not page.evaluate("document.querySelector('#list').inert")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_and_nothing_leaves_its_card(timed_page, width, theme):
    timed_page.set_viewport_size({"width": width, "height": 900})
    timed_page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    timed_page.fill("#query", "1")
    timed_page.wait_for_selector("#found li")
    assert timed_page.evaluate(CUT) == []
    picture(timed_page, f"search-{width}-{theme}")
    add(timed_page, "17", "8")
    soon(timed_page, "#near li").not_to_have_count(0)
    timed_page.wait_for_timeout(300)  # the beam is drawn anew a moment after the width has changed
    assert timed_page.evaluate(CUT) == []
    picture(timed_page, f"list-{width}-{theme}")
    timed_page.click("#tab-tree")
    assert timed_page.evaluate(CUT) == []
    picture(timed_page, f"tree-{width}-{theme}")
    timed_page.route("**/recommend", lambda route: route.abort())
    timed_page.locator("#k").fill("7")
    soon(timed_page, "#problem").to_be_visible()
    assert timed_page.evaluate(CUT) == []
    picture(timed_page, f"problem-{width}-{theme}")
    assert timed_page.evaluate("document.documentElement.scrollWidth <= innerWidth")
