"""Two processes train a model with a feature of every kind as one does, however its tables are sharded, and resume each other.

Some events are no targets, and the others weigh by their action.
"""

import pytest

from intrr_rec.training.trainer import train
from tests import tiny
from tests.data.features import rich
from tests.distributed.launch import train_all
from tests.distributed.test_world_sizes import figures, worst
from tests.distributed.worker import EXCHANGES

TOLERANCE = 1e-5
VARIANTS = {
    "data_parallel": ("train.sharding.uid=data_parallel",),
    "row_wise": ("train.sharding.uid=row_wise", "train.sharding.codebooks=table_wise"),
}

BLIND = {("blind", "2-2"): (), ("blind", "uid alone"): ("train.sharding.codebooks=data_parallel",)}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return rich.make_line(tmp_path_factory.mktemp("line"), targets={"rating": {"at_least": 3}})


def words(variant, epochs):
    return (
        *VARIANTS[variant],
        f"train.epochs={epochs}",
        "train.batch_users=13",  # a last step of a single window: one of two ranks has nothing of it
        "train.learning_rate=0.01",
        "train.weight_decay=0.1",
        "evaluate.beam=10",
        "model.unasked=0.3",
        "train.target_weights={action: {view: 0.25}}",
    )


@pytest.fixture(scope="module")
def runs(line, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    found = {
        (variant, sizes): root / f"{variant}-{sizes}" for variant in VARIANTS for sizes in ("1-1", "2-2", "2-1", "4-4")
    }
    for variant in VARIANTS:
        train(tiny.recipe(*words(variant, 2)), **line.inputs(), out=found[variant, "1-1"])
    on_two = {
        found[variant, sizes]: words(variant, 1 if sizes == "2-1" else 2)
        for variant in VARIANTS
        for sizes in ("2-2", "2-1")
    }
    for name, also in BLIND.items():
        found[name] = root / "-".join(name)
        on_two[found[name]] = (*words("row_wise", 1), "model.features=[]", *also)
    train_all(root, line, on_two, world_size=2)
    train_all(root, line, {found["row_wise", "4-4"]: words("row_wise", 2)}, world_size=4)
    for variant in VARIANTS:
        train(tiny.recipe(*words(variant, 2)), **line.inputs(), out=found[variant, "2-1"])
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", ["2-2", "2-1"])
def test_figures_equal_those_of_one_process(runs, variant, sizes):
    reference = figures(runs[variant, "1-1"])
    assert worst(figures(runs[variant, sizes]), reference) < TOLERANCE


def test_four_ranks_too(runs):
    assert worst(figures(runs["row_wise", "4-4"]), figures(runs["row_wise", "1-1"])) < TOLERANCE


def test_one_plan_places_all_tables(runs):
    plan = (runs["row_wise", "2-2"] / "plan.json").read_text()
    assert '"features"' in plan and '"uid"' in plan


def test_all_features_together_cost_no_more_exchanges_than_one_table(runs):
    """All-to-alls of two ranks: ten features, of events, items and users, beside the codebooks, which are one table."""
    taken = {name: int((runs[name] / EXCHANGES).read_text()) for name in (("row_wise", "2-1"), *BLIND)}
    every, without, uid_alone = taken["row_wise", "2-1"], *(taken[name] for name in BLIND)
    assert 0 < every - without <= without - uid_alone
