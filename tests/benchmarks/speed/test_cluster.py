"""The plan of a cluster: it can exist, its host is measured, and a step is what its parts make it."""

import json
from pathlib import Path

import pytest

from benchmarks.speed.cluster import SECTION, bench_cluster
from intrr_rec.errors import ConfigError
from tests import tiny

SIZES = {"items": 10**9, "ranks": 4, "users": 8, "steps": 1, "content_width": 4}


def test_a_plan_is_priced_in_all_its_parts(tmp_path: Path) -> None:
    out, page = tmp_path / "cluster.json", tmp_path / "page.md"
    page.write_text(f"<!-- {SECTION} -->\n<!-- end of {SECTION} -->\n")
    recipe = tiny.recipe("train.sharding.uid=row_wise", "index.levels=4", "index.codes=512")
    found = bench_cluster(recipe, **SIZES, out=out, page=page)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    step, work = found["step"], found["host_work"]
    assert step["host"] == pytest.approx(work["total_ms"]) and step["slowest"] == work["slowest_to_mean"]["tokens"]
    assert step["device"] == pytest.approx(step["compute"] * step["slowest"] + step["adam"])
    exposed = step["all_to_all"] + step["exposed_all_reduce"]
    assert step["total"] == pytest.approx(max(step["host"], step["device"]) + exposed)
    assert found["plan"]["total"]["device"] > 10**9 / 4 * 16 * 4
    assert found["host"]["mapped"]["Semantic IDs"] == 10**9 * (4 + 1) * 2
    assert "| max(host, device) + exposed |" in page.read_text()


def test_a_catalogue_of_more_items_than_semantic_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="items apart, but there are 1,000,000,000; set"):
        bench_cluster(tiny.recipe("train.sharding.uid=row_wise"), **SIZES, out=tmp_path / "c.json", page=None)
    assert not (tmp_path / "c.json").exists()
