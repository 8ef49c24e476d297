"""The contract of every component, built in or foreign: `python -m intrr_rec.testing my_pkg.mod:MyBackbone`.

A component that passes can be named in a recipe and does what the rest of the line counts on. Checks run on the CPU, in
seconds, on data made here. `tests/test_contract.py` runs them over every registered component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from intrr_rec.config import component, names
from intrr_rec.config.components import Group
from intrr_rec.data.raw.reader import LogReader
from intrr_rec.errors import ConfigError
from intrr_rec.models.backbones.backbone import Backbone
from intrr_rec.models.base import Recommender
from intrr_rec.testing.backbones import check_backbone
from intrr_rec.testing.checks import Check, check_settings
from intrr_rec.testing.inputs import check_encoder, check_reader
from intrr_rec.testing.models import check_model
from intrr_rec.testing.quantizers import check_quantizer
from intrr_rec.testing.trackers import check_tracker
from intrr_rec.training.trackers.tracker import Tracker


def contract(group: Group, name: str, sample: Path | None = None) -> dict[str, Check]:
    """Every check of a component, by what it says; each raises where the component fails it.

    Args:
        group: backbones, quantizers, models, encoders, readers or trackers.
        name: registered, or `module:Class`.
        sample: a file that a reader reads.

    Raises:
        ConfigError: there is no such component.
    """
    component(group, name)
    own: dict[Group, Callable[[str], Iterator[tuple[str, Check]]]] = {
        "backbones": check_backbone,
        "quantizers": check_quantizer,
        "models": check_model,
        "encoders": check_encoder,
        "readers": lambda reader: check_reader(reader, sample),
        "trackers": check_tracker,
    }
    return {**dict(check_settings(group, name)), **dict(own[group](name))}


def group_of(name: str) -> Group:
    """The group that a class belongs to, by what it is.

    Raises:
        ConfigError: it is no component.
    """
    groups: tuple[Group, ...] = get_args(Group)
    for group in groups:
        if ":" not in name and name in names(group):
            return group
    found = component("backbones", name)  # a dotted path is the same class in every group
    bases: dict[Group, type] = {"backbones": Backbone, "models": Recommender, "readers": LogReader, "trackers": Tracker}
    for group, base in bases.items():
        if issubclass(found, base):
            return group
    if hasattr(found, "assign") and hasattr(found, "fit"):
        return "quantizers"
    if hasattr(found, "encode"):
        return "encoders"
    raise ConfigError(f"'{name}' is no backbone, quantizer, model, encoder, log reader or tracker")


def fault_of(check: Check) -> str | None:
    """What a check finds wrong, in one line; None where it passes."""
    try:
        check()
    except Exception as error:  # whatever a foreign component raises is its failure
        return f"{type(error).__name__}: {error}"
    return None
