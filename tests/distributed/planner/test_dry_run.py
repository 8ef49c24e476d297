"""Plans and traffic of clusters nobody has, without allocating anything."""

import json

import psutil
import pytest

from intrr_rec.config import load_recipe
from intrr_rec.distributed.planner.dry_run import meta_model, plan_ahead
from intrr_rec.distributed.planner.step_time import count_products, estimate_step
from intrr_rec.distributed.planner.traffic import estimate_traffic
from intrr_rec.errors import ConfigError

WIDTH = 128
ONE_HOST = {"local_ranks": 8, "device": "cuda", "memory_gb": None, "content_width": 16, "out": None}


def recipe(*words):
    return load_recipe(None, ["train.batch_users=512", "model.window=30", *words])


def test_a_billion_items_on_sixty_four_gpus(tmp_path):
    before = psutil.Process().memory_info().rss
    out = tmp_path / "plan.json"
    plan = plan_ahead(
        recipe("train.sharding.uid=row_wise", "index.codes=2048"), items=10**9, ranks=64, **ONE_HOST | {"out": out}
    )
    assert psutil.Process().memory_info().rss - before < 0.5e9
    table = json.loads(out.read_text())["plan"]["tables"][0]
    assert table["memory"]["device"] == 10**9 // 64 * (4 * WIDTH + 4)
    assert plan.total.device < 80e9
    host = json.loads(out.read_text())["host"]
    assert host["mapped"]["Semantic IDs"] == 10**9 * 4 * 2 and host["index_hours"] > 1
    assert host["ranks"] == 8 * (10**9 + 3 * 8 * 2**26 // 64)  # processes, and events read ahead
    assert host["saved"] == pytest.approx(
        8 * table["memory"]["device"], rel=0.01
    )  # copies of the rows and their optimizer's state


def test_products_are_those_of_the_model():
    """A layer of HSTU more adds its projections (u, v, q, k, and the way out) and q·k and a·v; all grow with the users alone."""
    users, window = 32, 30
    counted = {}
    for layers in (4, 5):
        asked = recipe(f"model.hstu.layers={layers}")
        model = meta_model(asked, 1000, 16)
        counted[layers] = count_products(model, asked, users)
    slots = users * window
    layer = 2 * slots * WIDTH * 5 * WIDTH + 2 * 2 * slots * window * WIDTH
    assert counted[5] - counted[4] == pytest.approx(layer, rel=0.1)
    assert count_products(model, asked, 2 * users) == pytest.approx(2 * counted[5], rel=0.05)


def test_a_step_waits_for_the_slower_of_host_and_device():
    asked = recipe("train.sharding.uid=row_wise", "train.sharding.topology.tflops=2")
    plan = plan_ahead(asked, items=10**6, ranks=8, **ONE_HOST)
    model, traffic = meta_model(asked, 10**6, 16), estimate_traffic(plan, asked)
    assert plan.machines.tflops == 2
    for host_ms in (1.0, 1e6):
        step = estimate_step(model, asked, plan.machines, traffic, host_ms=host_ms, slowest=1.1)
        assert step.compute == pytest.approx(1e3 * step.gflop / 2e3)
        exposed = 1e3 * traffic.all_to_all_seconds + max(0, 1e3 * traffic.all_reduce_seconds - 2 / 3 * step.compute)
        assert step.total == pytest.approx(max(host_ms, 1.1 * step.compute + step.adam) + exposed)
        assert step.bottleneck == ("the host" if host_ms > 1e3 else "the device")


def test_more_items_than_semantic_ids_are_refused_with_levels_and_codes_that_would_do():
    with pytest.raises(
        ConfigError, match=r"266,338,304 items apart, but there are 1,000,000,000; set index.codes=2048, or "
    ):
        plan_ahead(recipe("train.sharding.uid=row_wise"), items=10**9, ranks=64, **ONE_HOST)
    for words in (["index.codes=2048"], ["index.levels=5", "index.codes=128"]):
        recipe(*words).index.require_capacity(10**9)


def test_levels_and_codes_are_proposed_where_items_would_crowd(capsys):
    plan_ahead(recipe("train.sharding.uid=row_wise"), items=10**6, ranks=64, **ONE_HOST)
    said = " ".join(capsys.readouterr().out.split())
    assert "0.477 items share a tuple" in said and "set index.codes=256, or index.levels=4 index.codes=128." in said
    for words in (["index.codes=256"], ["index.levels=4", "index.codes=128"]):
        assert recipe(*words).index.proposal(10**6) is None
    assert recipe().index.proposal(10**5) is None


def test_a_host_is_told_what_does_not_fit_its_memory(capsys):
    topology = "train.sharding.topology.host_memory_gb"
    for memory, is_short in ((40, False), (8, True)):
        words = ("train.sharding.uid=row_wise", "index.codes=2048", f"{topology}={memory}")
        plan_ahead(recipe(*words), items=10**9, ranks=64, **ONE_HOST)
        assert ("look-ups will read from disk" in capsys.readouterr().out) is is_short


def test_a_billion_items_replicated_are_refused():
    with pytest.raises(ConfigError, match=r"1,000,000,000 x 128, data_parallel\) takes 2,560 GB"):
        plan_ahead(recipe("index.codes=2048", "train.sharding.uid=data_parallel"), items=10**9, ranks=64, **ONE_HOST)


@pytest.mark.parametrize("kind", ["intrr", "flattened", "sasrec", "tiger"])
def test_every_model_can_be_planned(kind):
    plan = plan_ahead(recipe(f"model.kind={kind}", "model.uid_width=null"), items=1000, ranks=2, **ONE_HOST)
    assert plan.tables and plan.others["dense parameters"].device > 10**5


def test_traffic_is_that_of_rings_and_lookups():
    ranks, looked_up = 8, 512 * 30 // 8
    planned = {
        way: plan_ahead(recipe(f"train.sharding.uid={way}"), items=10**6, ranks=ranks, **ONE_HOST)
        for way in ("data_parallel", "row_wise", "column_wise")
    }
    traffic = {way: estimate_traffic(plan, recipe()) for way, plan in planned.items()}
    assert traffic["data_parallel"].all_to_all_bytes == 0
    assert traffic["row_wise"].all_to_all_bytes == looked_up * (8 + 2 * 4 * WIDTH) * 7 // 8
    assert traffic["column_wise"].all_to_all_bytes == looked_up * (8 * 8 + 2 * 4 * WIDTH) * 7 // 8
    more = traffic["data_parallel"].all_reduce_bytes - traffic["row_wise"].all_reduce_bytes
    assert more == pytest.approx(2 * 7 / 8 * 4 * WIDTH * 10**6, abs=2)
    two_hosts = plan_ahead(
        recipe("train.sharding.uid=row_wise"), items=10**6, ranks=ranks, **ONE_HOST | {"local_ranks": 4}
    )
    slower = estimate_traffic(two_hosts, recipe()).all_to_all_seconds / traffic["row_wise"].all_to_all_seconds
    assert slower == pytest.approx(450 / 50)
