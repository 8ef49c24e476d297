"""Grids as shipped expand to the paper's tables; what is wrong in one is refused in a line."""

from collections import Counter

import pytest

from benchmarks.tables.cells import Cell, Workplace, expand, select
from benchmarks.tables.grid import SHIPPED, load_grid
from intrr_rec.data.raw.descriptors import load_descriptor
from intrr_rec.errors import ConfigError
from tests.benchmarks.tables.mini import GRID, lay_out, write

TABLES = {"table1": 51, "table2": 4, "table3": 3, "table4": 5, "lambda": 8, "beyond": 9, "sports": 11, "neighbours": 21}


def cells_of(name: str, seeds=()) -> list[Cell]:
    return expand(*load_grid(name), seeds)


def test_every_shipped_grid_is_known_here():
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(TABLES)


@pytest.mark.parametrize(("name", "count"), TABLES.items())
def test_counts_names_and_recipes(name, count):
    cells = cells_of(name)
    assert len(cells) == count
    assert max(Counter(cell.full_name for cell in cells).values()) == 1
    for cell in cells_of(name):
        assert cell.recipe.index.method == cell.indexer
        assert load_descriptor(cell.dataset).title


def test_cells_that_share_artefacts_agree_on_their_settings():
    by_place: dict[tuple, set] = {}
    for name in TABLES:
        for cell in cells_of(name):
            by_place.setdefault((cell.dataset, cell.indexer), set()).add(
                (cell.recipe.index.model_dump_json(), cell.recipe.prepare.model_dump_json())
            )
    assert {len(settings) for settings in by_place.values()} == {1}


def test_tables_share_runs():
    by_name = {
        name: {cell.full_name: cell.recipe for cell in cells_of(name)} for name in ("table1", "table4", "lambda")
    }
    full = "beauty/rk_means/paper-hstu/seed0"
    assert by_name["table1"][full] == by_name["table4"][full] == by_name["lambda"][full]
    shared = set(by_name["table4"]) & set(by_name["lambda"])
    assert shared == {full, "beauty/rk_means/paper-hstu,align_weight=0.0/seed0"}
    for name in shared:
        assert by_name["table4"][name] == by_name["lambda"][name]


def test_one_name_is_one_recipe_over_all_tables():
    recipes: dict[tuple[str, str], set[str]] = {}
    for name in TABLES:
        for cell in cells_of(name):
            recipes.setdefault((cell.measure, cell.full_name), set()).add(cell.recipe.model_dump_json())
    assert {len(found) for found in recipes.values()} == {1}


def test_seeds_come_round_by_round():
    cells = cells_of("table4", (3, 4))
    assert [cell.seed for cell in cells] == [3] * 5 + [4] * 5
    assert [cell.recipe.train.seed for cell in cells] == [cell.seed for cell in cells]
    assert len({cell.name for cell in cells}) == 5


def test_measurements_have_no_seed():
    assert [cell.full_name for cell in cells_of("table2", (3, 4))] == [cell.name for cell in cells_of("table2")]


def test_only_takes_a_name_a_part_or_a_glob():
    cells = cells_of("lambda")
    names = [cell.name.split("/")[-1] for cell in select(cells, ["beauty/rk_means/paper-hstu"])]
    assert names == ["paper-hstu"]
    assert len(select(cells, ["align_weight"])) == 7
    assert len(select(cells, ["*=0.?/seed0", "=5.0"])) == 4
    assert select(cells, []) == cells
    with pytest.raises(ConfigError, match="--only nothing: no cell"):
        select(cells, ["nothing"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modles": []}, "unknown key 'modles'; did you mean 'models'"),
        ({"models": [{"label": "a", "recipe": "paper.yaml", "agianst": "b"}]}, r"did you mean 'models\.0\.against'"),
        ({"models": [{"label": "a"}]}, r"'models\.0\.recipe' is missing"),
        ({"models": [{"label": "a", "recipe": "p.yaml"}] * 2}, "label 'a' is given to two models"),
        ({"models": [{"label": "a", "recipe": "p.yaml", "against": "b"}]}, "'b', which is no label"),
        ({"models": [{"label": "a", "recipe": "p.yaml", "indexers": ["x"]}]}, "names indexer 'x'"),
        ({"published": {"mini": {"rk_means": {"x": [1, 2, 3, 4, 5]}}}}, "published figures name 'x'"),
        ({"published": {"mini": {"rk_means": {"IntRR": [1]}}}}, "published figures of 'IntRR' must be 5"),
        ({"measure": "latency", "published": {}}, "beams are needed"),
        ({"measure": "speed"}, "'measure'"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says) as refused:
        load_grid(str(write(tmp_path, "grid.yaml", GRID | changes)))
    assert "grid.yaml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_grid_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match="give one of beyond, lambda, neighbours, sports, table1, table2"):
        load_grid("table9")


def test_two_models_that_are_one_run_are_refused(tmp_path):
    twins = [{"label": "a", "recipe": "paper.yaml"}, {"label": "b", "recipe": "paper.yaml", "set": ["model.window=8"]}]
    grid = lay_out(tmp_path, models=twins, published={})
    with pytest.raises(ConfigError, match="'a' and 'b' are one and the same run"):
        expand(*load_grid(str(grid)))


def test_a_model_that_is_unknown_is_a_cell_that_is_impossible(tmp_path):
    models = [{"label": "new", "recipe": "paper.yaml", "set": ["model.kind=tomorrows", "model.backbone=t5"]}]
    (cell,) = expand(*load_grid(str(lay_out(tmp_path, models=models, published={}))))
    assert cell.name == "mini/rk_means/paper-t5,kind=tomorrows"
    assert cell.problem and "kind 'tomorrows' is none of" in cell.problem
    assert Workplace(tmp_path, tmp_path).state(cell) == "impossible"
