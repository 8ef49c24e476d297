"""The page in a real Chromium: from a search to a recommendation, and how it came about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

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
TOKEN = "a-secret-of-the-page"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def server(bundles) -> Iterator[Server]:
    with serving(bundles["path"].path, token=TOKEN) as running:
        yield running


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
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

    asked = {"history": ["7", "8"], "k": 10, "beam": 20, "filters": {"exclude_seen": True}, "trace": True}
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
