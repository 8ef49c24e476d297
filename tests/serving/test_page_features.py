"""The page of a model that reads features, in a browser."""

import json

import pytest

from tests.serving.process import serving
from tests.serving.test_features import bundle, folder, line, run  # noqa: F401 - fixtures
from tests.serving.test_page import CHROMIUM, TOKEN, add, opened_page, picture, settled, soon


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_the_page_lets_an_action_be_chosen_for_each_item_of_the_history(bundle):  # noqa: F811
    sent = []
    with serving(bundle.path, token=TOKEN) as running, opened_page(running) as page:
        page.on("request", lambda r: sent.append(json.loads(r.post_data)) if r.method == "POST" else None)
        add(page, "7", "8")
        soon(page, "#history li").to_have_count(2)
        for place, action in enumerate(("buy", "view")):
            page.locator("#history li").nth(place).get_by_label("action of").select_option(action)
            settled(page)
        page.locator("#history li").nth(1).get_by_label("app of").select_option("true")
        settled(page)
        page.locator("#history li").nth(1).get_by_label("dwell of").fill("12.5")
        page.locator("#history li").nth(1).get_by_label("dwell of").press("Enter")
        page.locator("#user").get_by_label("country of").select_option("DE")
        page.locator("#context").get_by_label("action of").select_option("buy")
        page.wait_for_timeout(300)
        settled(page)
        asked = sent[-1]
        assert asked["history"] == [
            {"item": "7", "action": "buy"},
            {"item": "8", "action": "view", "app": "true", "dwell": "12.5"},
        ]
        assert (asked["user"], asked["context"]) == ({"country": "DE"}, {"action": "buy"})
        answered = running.ask("POST", "/recommend", asked, {"Authorization": f"Bearer {TOKEN}"}).body["items"]
        soon(page, "#list .title").to_have_text([item["title"] for item in answered])
        picture(page, "features")
