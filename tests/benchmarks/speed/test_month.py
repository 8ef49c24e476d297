"""A month in miniature: every day's cost and what it is worth on the next one are there, and the shop grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed.month import bench_month


@pytest.mark.slow
def test_three_days_of_a_small_shop(tmp_path: Path) -> None:
    out = tmp_path / "month.json"
    work = tmp_path / "month"
    figures = bench_month(work, out, days=3, epochs=2, daily_epochs=1, retrain=[2], seed=0, small=True)
    days = figures["days"]
    assert json.loads(out.read_text())["days"] == days and [day["day"] for day in days] == [1, 2, 3]
    items, events = ([day[name] for day in days] for name in ("items", "events"))
    assert items == sorted(items) and items[0] < items[-1] and events == sorted(set(events))
    for day in days:
        assert {"prepare", "index", "train", "export", "promote"} <= set(day["cost"])
        assert all(each["wall"] > 0 and each["cpu"] > 0 for each in day["cost"].values())
    assert set(days[1]["recall@10"]) == {"served", "first", "users"}
    assert set(days[2]["recall@10"]) == {"served", "first", "full", "users"} and days[2]["recall@10"]["users"] == 40
