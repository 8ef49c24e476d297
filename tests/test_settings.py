"""`intrr settings`: every setting is listed, with words; the page is what the code says."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from intrr_rec.cli import app
from intrr_rec.config import Recipe, load_recipe
from intrr_rec.config.listing import page, settings_of
from intrr_rec.errors import ConfigError
from intrr_rec.io.formats.yaml_text import parse_yaml
from tests.distributed.launch import ROOT


def test_every_setting_of_a_saved_recipe_is_listed_with_its_default_and_words() -> None:
    tree = Recipe().model_dump(mode="json")
    listed = {each.key: each for each in settings_of()}

    def walk(at: object, key: str) -> None:
        if key in listed:
            assert parse_yaml(listed[key].default) == at, key
            assert listed[key].meaning and listed[key].type, key
        elif isinstance(at, dict):
            for name, value in at.items():
                walk(value, f"{key}.{name}" if key else name)
        else:
            pytest.fail(f"{key} is not listed")

    walk(tree, "")
    for each in listed.values():
        load_recipe(None, [f"{each.key}={each.default}"])  # is a word of the command line


def test_a_section_and_a_single_setting_are_listed() -> None:
    assert {each.key for each in settings_of("model.hstu")} > {"model.hstu.layers"}
    assert [each.key for each in settings_of("train.epochs")] == ["train.epochs"]
    with pytest.raises(ConfigError, match=r"no 'train\.epoch'; did you mean 'train\.epochs'"):
        settings_of("train.epoch")
    said = CliRunner().invoke(app, ["settings", "train"]).output
    assert "train.epochs" in said and "60" in said and "model." not in said


def test_the_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert written == page(), "write it again: python -m intrr_rec.config.listing > docs/settings.md"
