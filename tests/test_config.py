"""The settings tree: precedence, refusals that help, and round trips."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import Recipe, load_recipe, parse, same_run, save_recipe
from intrr_rec.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_a_valid_recipe() -> None:
    assert load_recipe() == Recipe()


RECIPES = set((Path(__file__).parents[1] / "configs").glob("*.yaml")) - {
    Path(__file__).parents[1] / "configs" / "promotion.yaml"
}


@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda p: p.stem)
def test_every_recipe_of_ours_is_valid(path: Path) -> None:
    assert load_recipe(path) != Recipe()


def test_precedence_is_defaults_base_file_overrides(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", "train: {epochs: 1, seed: 1}\nmodel: {window: 10, hstu: {layers: 2, width: 64}}\n")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "middle.yaml", "base: ../root.yaml\ntrain: {epochs: 2}\nmodel: {hstu: {layers: 3}}\n")
    top = write(tmp_path / "top.yaml", "base: sub/middle.yaml\ntrain: {learning_rate: 0.5}\n")
    recipe = load_recipe(top, ["train.seed=9", "evaluate.beam=7"])
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.train.seed) == (2, 0.5, 9)
    assert (recipe.model.window, recipe.model.hstu.layers, recipe.model.hstu.width) == (10, 3, 64)
    assert recipe.evaluate.beam == 7
    assert recipe.index == Recipe().index


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "empty.yaml", "# nothing\n")) == Recipe()


@pytest.mark.parametrize("files", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_cycle_of_bases_is_refused(tmp_path: Path, files: list[str]) -> None:
    for here, following in zip(files, [*files[1:], files[0]], strict=True):
        write(tmp_path / f"{here}.yaml", f"base: {following}.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_recipe(tmp_path / "a.yaml")


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    top = write(tmp_path / "top.yaml", "base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_recipe(top)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.epoch=3", "train.epochs"),
        ("trian.epochs=3", "train"),
        ("model.hstu.head=2", "model.hstu.heads"),
        ("model.ran.hiden=2", "model.ran.hidden"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(override: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{override.split('=')[0]}|unknown key 'trian'") as caught:
        load_recipe(overrides=[override])
    assert f"did you mean '{nearest}'?" in str(caught.value)


def test_a_descriptor_in_place_of_a_recipe_is_told_apart():
    with pytest.raises(ConfigError, match="describes logs and is no recipe; give it without --config"):
        load_recipe(Path(__file__).parents[1] / "datasets" / "beauty.yaml")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=", "train.epochs"),
        ("model.hstu.dropout=1.0", "model.hstu.dropout"),
        ("model.hstu.heads=3", "model.hstu"),
        ("model.ran.context=next", "model.ran.context"),
        ("train=3", "train"),
    ],
)
def test_a_value_out_of_range_names_its_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"command line: '{key}'") as caught:
        load_recipe(overrides=[override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs", "is not an override"),
        ("=3", "is not an override"),
        ("train.epochs=[", "not valid YAML"),
        ("train.epochs.deep=1", "unknown key|valid"),
    ],
)
def test_a_malformed_override_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(overrides=[override])


@pytest.mark.parametrize(
    "word",
    [
        "model.kind=flattened",
        "train.sharding.uid=data_parallel",
        "train.sharding.kernel=fused_uvm_caching",
        "train.ema_decay=0.9",
        "train.accumulate=2",
        "model.zch.rows=100",
    ],
)
def test_managed_rows_are_refused_where_they_cannot_be(word: str) -> None:
    words = ["model.zch.rows=64", "train.sharding.uid=row_wise"]
    assert load_recipe(overrides=words).model.zch.rows == 64
    with pytest.raises(ConfigError, match=r"managed rows need|multiple of 32") as caught:
        load_recipe(overrides=[*words, word])
    assert str(caught.value).startswith(("command line: model.zch.rows: ", "command line: 'model.zch.rows': "))
    assert "{" not in str(caught.value)


@pytest.mark.parametrize("codes", ["abc", "1", "3.5", "true", "[]", "[4, 1, 8]", "[4, 4]", "[4, 4, 4, 4]", "{4: 5}"])
def test_codes_are_one_size_or_one_size_per_level(codes: str) -> None:
    with pytest.raises(ConfigError, match=r"command line: 'index(\.codes)?': .*(per level|levels)"):
        load_recipe(overrides=[f"index.codes={codes}"])


def test_one_size_stands_for_all_levels() -> None:
    assert load_recipe(overrides=["index.codes=9", "index.levels=2"]).index.sizes == (9, 9)
    assert load_recipe(overrides=["index.codes=[4, 8, 16]"]).index.sizes == (4, 8, 16)


def test_an_override_may_not_descend_into_a_value(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "train: {epochs: 3}\n")
    with pytest.raises(ConfigError, match="descends into 'epochs'"):
        load_recipe(path, ["train.epochs.deep=1"])


@pytest.mark.parametrize("text", ["- a list\n", "just words\n", "train: [\n"])
def test_a_file_that_is_no_tree_of_settings_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_recipe(path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_recipe(path)


def test_every_error_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "train: {epoch: 3}\nindex: {levels: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "train.epoch" in str(caught.value) and "index.levels" in str(caught.value)


unit = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-12, 1e6)
count = st.integers(1, 10**9)
heads_and_width = st.tuples(st.integers(1, 64), st.integers(1, 64)).map(
    lambda pair: {"heads": pair[0], "width": pair[0] * pair[1]}
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


trees = some(
    prepare=some(
        user_column=names, item_column=names, time_column=st.none() | names, k_core=count, min_sequence=st.integers(3)
    ),
    index=some(
        levels=st.integers(1, 63),
        codes=st.integers(2, 1 << 20),
        normalize=st.booleans(),
        tolerance=st.floats(0, 1),
        seed=st.integers(),
    ),
    model=some(
        window=st.integers(2, 65_536),
        hstu=st.builds(
            lambda shape, rest: shape | rest, heads_and_width, some(layers=st.integers(1, 512), dropout=unit)
        ),
        ran=some(hidden=st.integers(1, 1 << 20), context=st.sampled_from(["previous", "cumulative"]), dropout=unit),
        align_weight=st.floats(0, 1e6),
        codebook_std=positive,
        uid_residual=st.booleans(),
    ),
    train=some(
        max_minutes=st.none() | positive,
        learning_rate=positive,
        batch_users=st.integers(1, 1 << 24),
        seed=st.integers(),
    ),
    evaluate=some(beam=st.integers(1, 65_536), normalize=st.sampled_from(["trie", "global"])),
)


@settings(max_examples=40, deadline=None)
@given(trees)
def test_any_valid_tree_round_trips(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    recipe = parse(tree, "test")
    for section, values in tree.items():
        for key, value in values.items():
            if not isinstance(value, dict):
                assert getattr(getattr(recipe, section), key) == value
    path = tmp_path_factory.mktemp("recipe") / "resolved.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


@given(st.sampled_from(["train.seed", "index.seed"]), st.integers())
def test_an_override_equals_the_same_line_in_a_file(key: str, value: int) -> None:
    section, name = key.split(".")
    assert load_recipe(overrides=[f"{key}={value}"]) == parse({section: {name: value}}, "test")


def test_a_resolved_copy_names_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "resolved.yaml"
    save_recipe(Recipe(), path)
    written = yaml.safe_load(path.read_text())
    assert written == Recipe().model_dump(mode="json")
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_run_is_the_same_whatever_other_kinds_of_model_were_called(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["train.seed=3"])
    save_recipe(recipe, tmp_path / "config.yaml")
    assert same_run(tmp_path / "config.yaml", recipe)
    assert same_run(tmp_path / "config.yaml", load_recipe(None, ["train.seed=3", "serve.max_batch=4"]))
    assert not same_run(tmp_path / "config.yaml", load_recipe(None, ["train.seed=4"]))
    assert not same_run(tmp_path / "config.yaml", load_recipe(None, ["train.seed=3", "model.kind=sasrec"]))
    for section, still in (("sasrec", True), ("hstu", False)):
        tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
        tree["model"][section]["a_key_of_old"] = 1
        assert same_run(write(tmp_path / "old.yaml", yaml.safe_dump(tree)), recipe) == still


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "y", "N", "007", "0x1F", "1_000", "12:30", "0b1", "017", "+7"]
)
def test_a_word_of_a_name_stays_as_it_is_written(word: str) -> None:
    prepare = load_recipe(
        None, [f"prepare.user_column={word}", "prepare.event_column=kind", f"prepare.event_weights={{{word}: 3}}"]
    ).prepare
    assert (prepare.user_column, prepare.event_weights) == (word, {word: 3})


def test_words_for_truths_and_numbers_are_read_where_those_are_meant(tmp_path: Path) -> None:
    for word, truth in (("yes", True), ("off", False), ("true", True), ("False", False)):
        assert load_recipe(None, [f"prepare.keep_rows={word}"]).prepare.keep_rows is truth
    assert load_recipe(None, ["train.learning_rate=1e-3"]).train.learning_rate == 1e-3
    assert load_recipe(None, ["train.batch_users=1_000"]).train.batch_users == 1000
    recipe = load_recipe(None, ["prepare.user_column=no"])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    with pytest.raises(ConfigError, match="put it in quotes, as in 'true'"):
        load_recipe(write(tmp_path / "true.yaml", "prepare: {user_column: true}"))
    for word in ("true", "'true'"):
        assert load_recipe(None, [f"prepare.user_column={word}"]).prepare.user_column == "true"


@pytest.mark.parametrize("value", ["{title} by {brand}", "{title}", "[{title}]", "no", "007"])
def test_text_on_the_command_line_is_what_was_written(value):
    assert load_recipe(None, [f"prepare.text_template={value}", "train.epochs=3"]).prepare.text_template == value


def test_a_list_where_a_number_is_asked_for_is_refused():
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        load_recipe(None, ["train.epochs=[3]", "prepare.text_template={title}"])


def test_a_budget_of_events_holds_four_windows():
    with pytest.raises(
        ConfigError,
        match=r"train\.batch_tokens: 119 events are fewer than 4 windows of model\.window=30; set at least 120",
    ):
        load_recipe(None, ["train.batch_tokens=119", "model.window=30"])
    recipe = load_recipe(None, ["train.batch_tokens=120", "model.window=30"])
    assert (
        recipe.step_events == 120 and load_recipe(None, ["train.batch_users=7", "model.window=30"]).step_events == 210
    )
