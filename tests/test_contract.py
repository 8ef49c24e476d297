"""Every registered component, and those of the example plug-in, keep the contract; a component that does not is found out."""

import pytest

from intrr_rec.config import BackboneConfig, names
from intrr_rec.data.raw.reader import LogReader
from intrr_rec.errors import ConfigError
from intrr_rec.models.backbones.hstu import Hstu
from intrr_rec.testing import contract, fault_of, group_of

PLUGIN = "intrr_rec_example"
FOREIGN = {
    "backbones": [f"{PLUGIN}.hstu_released:HstuReleased"],
    "quantizers": [f"{PLUGIN}.sampled_codes:SampledCodes"],
    "readers": [f"{PLUGIN}.yoochoose:YoochooseClicks"],
}
COMPONENTS = [
    pytest.param(
        group, name, marks=[pytest.mark.slow] if group in ("encoders", "trackers") else [], id=f"{group}-{name}"
    )
    for group in ("backbones", "quantizers", "models", "encoders", "readers", "trackers")
    for name in [*names(group), *FOREIGN.get(group, [])]
]
CLICKS = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"


@pytest.mark.parametrize(("group", "name"), COMPONENTS)
def test_keeps_the_contract(group, name, tmp_path, monkeypatch):
    if group == "trackers":
        monkeypatch.setenv("WANDB_MODE", "offline")
        if name != "none":
            pytest.importorskip(name, reason=f"requirements/{name}.txt installs it")
    assert group_of(name) == group
    sample = None
    if name.endswith("YoochooseClicks"):
        sample = tmp_path / "yoochoose-clicks.dat"
        sample.write_text(CLICKS)
    for check in contract(group, name, sample).values():
        check()


class SeesTheFuture(Hstu):
    """A backbone whose states hold the item after them."""

    def prefill(self, x_TD, layout, at_S=None):
        state_TD, packed = super().prefill(x_TD, layout)
        state_TD = state_TD + x_TD.roll(-1, 0)
        return (state_TD if at_S is None else state_TD[at_S]), packed


class Forgets(Hstu):
    """A backbone whose states asked for by `at_S` are not those of the whole pass."""

    def prefill(self, x_TD, layout, at_S=None):
        state_TD, packed = super().prefill(x_TD, layout, at_S)
        return (state_TD if at_S is None else state_TD * 1.01), packed


class NeedsTelling(BackboneConfig):
    depth: int


class WithoutDefaults(Hstu):
    Config = NeedsTelling


class TakesAnything(LogReader):
    """A reader that takes any file for an empty one."""

    schema = __import__("pyarrow").schema([("item_id", "string")])

    def rows(self, path):
        return iter(())


@pytest.mark.parametrize(
    ("group", "broken", "says"),
    [
        ("backbones", SeesTheFuture, "an earlier state sees a later item"),
        ("backbones", Forgets, "states asked for by at_S are others"),
        ("readers", TakesAnything, "is read without an error"),
    ],
)
def test_a_broken_component_is_found_out(group, broken, says):
    faults = map(fault_of, contract(group, f"{__name__}:{broken.__name__}").values())
    assert any(says in (fault or "") for fault in faults)


def test_a_setting_without_a_default_is_found_out():
    with pytest.raises(ConfigError, match="every setting of its Config needs a default, but 'depth' has none"):
        contract("backbones", f"{__name__}:WithoutDefaults")


def test_time_reading_backbones_are_given_times():
    from intrr_rec.config import ModelConfig

    assert ModelConfig.model_validate({"hstu": {"time_bias": True}}).reads_times
    assert not ModelConfig(backbone=FOREIGN["backbones"][0]).reads_times
