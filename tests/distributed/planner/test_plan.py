"""Plans for machines nobody has here: what is refused before anything is allocated, what the planner chooses, what it costs."""

import json

import pytest
import torch

from intrr_rec.config import ModelConfig, Recipe, ShardingConfig, TopologyConfig, TrainConfig, load_recipe
from intrr_rec.distributed.planner.dry_run import meta_model
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.planner.memory import PROCESS, USABLE
from intrr_rec.distributed.planner.plan import make_plan
from intrr_rec.errors import ConfigError
from intrr_rec.models.registry import make_model

MILLION = 10**6
WIDTH = 128


def machines(device="cpu", ranks=1, memory_gb=64, **topology):
    return Machines.like(device, ranks, min(ranks, 8), memory_gb * GB, 200 * GB, TopologyConfig(**topology))


def model(items):
    """Everything on the meta device: no memory at any size."""
    with torch.device("meta"):
        codes = torch.empty(items, 4, dtype=torch.int64)
        return make_model(ModelConfig(), codes, [256] * 4, None, torch.device("meta"))


def plan(items, on, training=True, ema_decay=None, **sharding):
    recipe = Recipe(train=TrainConfig(ema_decay=ema_decay, sharding=ShardingConfig(**sharding)))
    return make_plan(model(items), on, recipe, training=training, group=None)


def uid(found):
    return found.tables[0]


@pytest.mark.parametrize(
    ("sharding", "ranks", "bytes_an_item"),
    [
        ({}, 1, 5 * 4 * WIDTH),
        ({}, 4, 5 * 4 * WIDTH),
        ({"uid": "row_wise"}, 4, (4 * WIDTH + 4) / 4),
        ({"uid": "row_wise", "optimizer": "adagrad"}, 4, 8 * WIDTH / 4),
        ({"uid": "column_wise"}, 4, 8 * WIDTH / 4),
        ({"uid": "table_wise"}, 4, 4 * WIDTH + 4),
    ],
)
def test_a_table_costs_what_it_is_made_of(sharding, ranks, bytes_an_item):
    found = uid(plan(MILLION, machines(ranks=ranks), **sharding))
    assert found.memory.device == MILLION * bytes_an_item
    assert (found.rows, found.width, found.sharding) == (MILLION, WIDTH, sharding.get("uid", "data_parallel"))
    assert len(found.ranks) == (1 if found.sharding == "table_wise" else ranks)


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_row"),
    [("rowwise_adagrad", 4 * WIDTH + 4), ("adam", 12 * WIDTH), ("rowwise_adam", 8 * WIDTH + 4)],
)
@pytest.mark.parametrize("kernel", ["fused", "fused_uvm_caching"])
def test_gpus_know_adam_and_may_keep_tables_on_the_host(optimizer, bytes_a_row, kernel):
    on = machines("cuda", ranks=8, memory_gb=80)
    found = uid(plan(8 * MILLION, on, uid="row_wise", optimizer=optimizer, kernel=kernel))
    whole = MILLION * bytes_a_row
    assert (found.kernel, found.optimizer) == (kernel, optimizer)
    assert found.memory.device == (whole if kernel == "fused" else int(0.2 * whole))
    assert found.memory.host == (0 if kernel == "fused" else whole)


def test_neighbours_cost_their_ids_and_terms_on_every_rank():
    recipe = load_recipe(None, ["evaluate.rank_by=sid_dense_and_neighbours", "model.dense.weight=1"])
    found = make_plan(model(MILLION), machines(ranks=4), recipe, training=True, group=None)
    per_item = recipe.model.neighbours.kept * (4 + 3 * 2)
    assert found.others["neighbours of items, in evaluation"].device == MILLION * per_item


@pytest.mark.parametrize("sharding", [{}, {"uid": "row_wise"}, {"uid": "column_wise"}])
def test_an_average_costs_the_weights_once_more(sharding):
    without, averaged = (plan(MILLION, machines(ranks=2), ema_decay=decay, **sharding) for decay in (None, 0.9))
    held = MILLION * WIDTH * 4 // (2 if sharding else 1)
    assert uid(averaged).memory.device - uid(without).memory.device == held
    dense = averaged.others["average of the dense parameters"].device
    assert 5 * dense == averaged.others["dense parameters"].device > 0
    assert averaged.total.device - without.total.device == held + dense + 1024 * WIDTH * 4  # the codebooks


def test_what_only_ranks_needs_rows_alone():
    assert uid(plan(MILLION, machines(), training=False)).memory.device == MILLION * WIDTH * 4
    sharded = uid(plan(MILLION, machines(), training=False, uid="row_wise", optimizer="adam"))
    assert (sharded.memory.device, sharded.optimizer) == (MILLION * WIDTH * 4, "sgd")


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ({"uid": "row_wise", "optimizer": "adam"}, "optimizer=adam: on CPUs .* rowwise_adagrad and adagrad"),
        ({"uid": "auto", "optimizer": "rowwise_adam"}, "optimizer=rowwise_adam: on CPUs"),
        ({"codebooks": "row_wise", "kernel": "fused_uvm_caching"}, "fused_uvm_caching: exists on CUDA only"),
        (
            {"uid": "column_wise", "optimizer": "rowwise_adagrad"},
            "uid=column_wise: rowwise_adagrad keeps one state a row",
        ),
    ],
)
def test_what_the_cpu_kernels_do_not_know_is_refused(sharding, message):
    with pytest.raises(ConfigError, match=message):
        plan(1000, machines(), **sharding)


def managed(items, rows, on):
    recipe = load_recipe(overrides=[f"model.zch.rows={rows}", "train.sharding.uid=row_wise"])
    return make_plan(meta_model(recipe, items, 0), on, recipe, training=True, group=None)


def test_managed_rows_cost_their_own_number_and_their_owners():
    found = managed(MILLION, 64_000, machines(ranks=4))
    assert (uid(found).rows, uid(found).sharding) == (64_000, "row_wise")
    assert uid(found).memory.device == 16_000 * (4 * WIDTH + 4)
    assert found.others["owners of managed rows"].device == pytest.approx(16_000 * 20, abs=3000)
    keys = 8
    assert found.others["buffers"].device == pytest.approx(MILLION * keys, rel=1e-3)


def test_managed_rows_divide_among_the_ranks_or_are_refused():
    with pytest.raises(
        ConfigError, match=r"rows=64000: its sets of 32 rows do not divide among 3 ranks; .* 96, e\.g\. 64032"
    ):
        managed(1000, 64_000, machines(ranks=3))
    assert uid(managed(1000, 64_032, machines(ranks=3))).ranks == (0, 1, 2)


def test_columns_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="codebooks=column_wise: a width of 128 does not divide into 3 shards"):
        plan(1000, machines(ranks=3), codebooks="column_wise")


def refusal(items, on, **sharding):
    with pytest.raises(ConfigError) as caught:
        plan(items, on, **sharding)
    return str(caught.value)


def needed(text):
    return int(text.split("row_wise over at least ")[1].split()[0].replace(",", ""))


def test_a_table_that_does_not_fit_is_refused_with_the_ranks_it_needs():
    text = refusal(50 * MILLION, machines(ranks=2, memory_gb=16), uid="data_parallel")
    assert "table 'uid' (50,000,000 x 128, data_parallel) takes 128 GB" in text
    assert "train.sharding.uid=row_wise" in text
    for ranks in (needed(text), 2 * needed(text)):
        plan(50 * MILLION, machines(ranks=ranks, memory_gb=16), uid="row_wise")


def test_the_ranks_a_refusal_names_are_the_fewest_that_do():
    count = needed(refusal(50 * MILLION, machines(memory_gb=10), uid="row_wise"))
    assert count > 2
    assert needed(refusal(50 * MILLION, machines(ranks=count - 1, memory_gb=10), uid="row_wise")) == count
    assert plan(50 * MILLION, machines(ranks=count, memory_gb=10), uid="row_wise").total.device <= USABLE * 10 * GB


def test_where_the_rest_alone_does_not_fit_no_ranks_are_named():
    assert "no number of ranks fixes that" in refusal(50 * MILLION, machines(memory_gb=1), uid="row_wise")


def test_a_large_catalogue_is_sharded_where_nothing_is_said():
    assert uid(plan(MILLION, machines())).sharding == "data_parallel"
    for ranks in (1, 8):
        assert uid(plan(MILLION + 1, machines(ranks=ranks))).sharding == "row_wise"
    assert uid(plan(MILLION + 1, machines(), uid="data_parallel")).sharding == "data_parallel"


def test_auto_replicates_what_is_small_and_shards_what_is_large():
    small = plan(1000, machines(ranks=4), uid="auto", codebooks="auto")
    large = plan(20 * MILLION, machines(ranks=4), uid="auto")
    assert uid(large).sharding != "data_parallel"
    for found in (small, large):
        assert found.total.device <= USABLE * found.machines.memory


def test_a_plan_tells_all_it_counts():
    found = plan(2 * MILLION, machines("cuda", ranks=64, memory_gb=80), uid="row_wise")
    text, figures = str(found), json.loads(json.dumps(found.as_dict()))
    assert [table["name"] for table in figures["tables"]] == ["uid", "codebooks"]
    assert figures["others"]["process"]["device"] == PROCESS["cuda"]
    parts = [table["memory"]["device"] for table in figures["tables"]]
    parts += [part["device"] for part in figures["others"].values()]
    assert figures["total"]["device"] == sum(parts)
    assert figures["others"]["buffers"]["device"] < MILLION  # Semantic IDs are on the host, mapped
    assert figures["others"]["prefix trie, in evaluation"]["device"] == 2 * MILLION * 16
    assert "neighbours of items, in evaluation" not in figures["others"]
    for words in ("2,000,000 x 128", "row_wise", "rowwise_adagrad", "0-63", "64 ranks on cuda, 80 GB each"):
        assert words in text
