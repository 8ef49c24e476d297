"""Every model's first losses are those on file."""

import json

import pytest

from intrr_rec.config import load_recipe
from intrr_rec.config.components import BUILT_IN
from intrr_rec.errors import ConfigError
from tests import tiny
from tests.golden import CASES, COMMAND, COMMON, FOLDER, first_losses, golden_file

# Not equality: kernels of another processor add in another order, and steps of Adam carry that on. Run with
# ATEN_CPU_CAPABILITY=default (no vector units), the losses differed by 5e-6 at most; the bias by time moves them by 1e-2.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.mark.parametrize("name", CASES)
def test_first_losses_are_those_on_file(name, line, tmp_path):
    assert golden_file(name).is_file(), f"no {golden_file(name).name}: run `{COMMAND}` and commit it"
    kept = json.loads(golden_file(name).read_text())
    assert kept["settings"] == [*COMMON, *CASES[name]], f"the case has changed: run `{COMMAND}` and commit its files"
    found = first_losses(name, line, tmp_path / "run")
    assert found == pytest.approx(kept["losses"], rel=TOLERANCE), (
        f"the first losses of {name} have changed; if you meant that, run `{COMMAND}`, look at the diff and commit it"
    )


def test_every_model_has_a_golden_file():
    missing = []
    for kind in BUILT_IN["models"]:
        for backbone in BUILT_IN["backbones"]:
            try:
                recipe = load_recipe(None, [f"model.kind={kind}", f"model.backbone={backbone}"])
            except ConfigError:
                continue
            if not recipe.model.kind_settings.learns:
                continue
            if not golden_file(kind).is_file() and not golden_file(f"{kind}-{backbone}").is_file():
                missing.append(f"{kind}-{backbone}")
    assert not missing, f"name a case for each in tests/golden/__init__.py, then run `{COMMAND}`"
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(CASES), f"run `{COMMAND}`"
