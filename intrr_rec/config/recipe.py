"""The settings tree: typed, validated, one YAML per recipe that names only what differs from these defaults.

The defaults are the paper's (section 4.1). A recipe file may name another as its `base`; `section.key=value` words on the
command line override both. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from intrr_rec.config.components import ComponentSection, component, names, section_name
from intrr_rec.config.indexing import IndexConfig
from intrr_rec.config.logs.preparation import PrepareConfig
from intrr_rec.config.model import ModelConfig
from intrr_rec.config.section import Section
from intrr_rec.config.serving import ServeConfig
from intrr_rec.config.tracking import TrackConfig
from intrr_rec.config.training import EvaluateConfig, TrainConfig
from intrr_rec.errors import ConfigError, instead, nearest
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.formats.records import TEXT_SEAL, sealed_text, unsealed_text
from intrr_rec.io.formats.yaml_text import parse_yaml, read_text
from intrr_rec.io.shipped import find_settings

# Items up to which evaluation makes every item's token beforehand; above, the tokens of each batch of histories.
FEW_ITEMS = 1_000_000

FEWEST_WINDOWS = 4  # of full length in a step: no step is empty then


class Recipe(Section):
    """All settings of the line, one section a verb."""

    prepare: PrepareConfig = PrepareConfig()
    index: IndexConfig = IndexConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _dense_ranking_is_trained(self) -> Recipe:
        if self.evaluate.rank_by != "sid" and not (self.model.kind_settings.dense_head and self.model.dense.weight):
            raise ValueError(
                f"evaluate.rank_by: {self.evaluate.rank_by} needs a model trained with model.dense.weight > 0"
            )
        return self

    @model_validator(mode="after")
    def _a_step_holds_windows(self) -> Recipe:
        tokens, window = self.train.batch_tokens, self.model.window
        if tokens is not None and tokens < FEWEST_WINDOWS * window:
            raise ValueError(
                f"train.batch_tokens: {tokens} events are fewer than {FEWEST_WINDOWS} windows of model.window={window}; set at least "
                f"{FEWEST_WINDOWS * window}"
            )
        return self

    @property
    def step_events(self) -> int:
        """Events of a step over all ranks, at most."""
        return self.train.batch_tokens or self.train.batch_users * self.model.window

    @model_validator(mode="after")
    def _managed_rows_fit(self) -> Recipe:
        if self.model.zch.rows is None:
            return self
        sharding = self.train.sharding
        for holds, fix in (
            (self.model.kind_settings.managed_rows, "model.kind=intrr"),
            (sharding.uid == "row_wise", "train.sharding.uid=row_wise"),
            (sharding.kernel == "fused", "train.sharding.kernel=fused"),
            (self.train.ema_decay is None, "no train.ema_decay: an average would mix the items a row had"),
            (self.train.accumulate == 1, "train.accumulate=1: parts of a step would take one another's rows"),
        ):
            if not holds:
                raise ValueError(f"model.zch.rows: managed rows need {fix}")
        return self

    @property
    def uses_neighbours(self) -> bool:
        """Whether the ranking looks up neighbours (`model.neighbours`)."""
        return self.fits_ranking or not self.model.kind_settings.learns

    @property
    def fits_ranking(self) -> bool:
        """Whether the ranking's weights are fitted (`evaluation/fit_ranking.py`)."""
        return self.evaluate.rank_by == "sid_dense_and_neighbours"

    def keeps_catalogue(self, items: int, events: int | None = None) -> bool:
        """Whether evaluation holds the token of every item: where the ranking asks for all of them, or they are few.

        Args:
            events: of the histories, where they are known: no more tokens than that are needed in place of the catalogue's.
        """
        by_sid = self.model.kind_settings.ranks_by_sid and self.evaluate.rank_by == "sid"
        return items <= min(FEW_ITEMS, items if events is None else events) or not by_sid


def load_recipe(
    path: Path | str | None = None, overrides: Sequence[str] = (), *, under: tuple[Path, dict[str, Any]] | None = None
) -> Recipe:
    """Defaults ← `under` (a file's name and its settings) ← base files ← `path` ← overrides (`section.key=value`, in YAML).

    Raises:
        ConfigError: unreadable file, unknown key, or a value of the wrong type or out of range.
    """
    settings = read_yaml(Path(path)) if path else {}
    source = str(path) if path else "command line"
    if "interactions" in settings:
        raise ConfigError(f"{path}: describes logs and is no recipe; give it without --config: `intrr prepare {path}`")
    if under is not None:
        settings, source = _merge(deepcopy(under[1]), settings), f"{under[0]} or {source}"
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"command line: '{word}' is not an override; write section.key=value")
        keys = key.split(".")
        try:
            parsed = parse_yaml(value)
            if not isinstance(parsed, str | None) and _is_text(keys):
                parsed = value  # such as {title}, which is a mapping
        except ValueError:
            if not _is_text(keys):
                raise ConfigError(f"command line: value of '{key}' is not valid YAML: {value!r}") from None
            parsed = value  # such as {title} by {brand}
        _set(settings, keys, parsed, word)
    return parse(settings, source)


def parse(settings: dict[str, Any], source: str) -> Recipe:
    """Validate a tree of settings; `source` is named in errors."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, source, settings) for item in error.errors())) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the fully resolved settings as YAML, atomically, after a comment with their SHA-256, which `read_yaml` checks."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_text(path, sealed_text(text))


def same_run(saved: Path, recipe: Recipe) -> bool:
    """Whether a run's saved settings are those of `recipe`, those of the server, the tracker and other kinds of model aside.

    Those are not read, and a later version may name their keys otherwise than the one that saved them.
    """
    try:
        tree, asked = _own(read_yaml(saved)), _own(recipe.model_dump(mode="json"))
        # Left to the data, which decided when the run began.
        if recipe.evaluate.exclude_seen is None:
            tree = _merge(tree, {"evaluate": {"exclude_seen": None}})
        if recipe.train.sharding.uid is None:
            tree = _merge(tree, {"train": {"sharding": {"uid": None}}})
        return parse(tree, str(saved)) == parse(asked, "recipe")
    except ConfigError:
        return False


def _own(tree: dict[str, Any]) -> dict[str, Any]:
    model = tree.get("model", {})
    others = set(names("models")) - {model.get("kind", Recipe().model.kind)}
    return tree | {"model": {key: value for key, value in model.items() if key not in others}, "serve": {}, "track": {}}


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a file, or of what comes with the package by that name, over those of the file it names as its `base`.

    Raises:
        ConfigError: cannot be read, is not YAML of sections, or bases that lead back.
    """
    path = find_settings(path).resolve()
    if path in seen:
        raise ConfigError(f"{path}: its 'base' leads back to itself; remove one of the two")
    try:
        settings = _parse_yaml(path, read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must hold 'section: {{key: value}}' entries")
    base = settings.pop("base", None)
    if base is None:
        return settings
    return _merge(read_yaml(path.parent / str(base), (*seen, path)), settings)


def is_sealed(path: Path) -> bool:
    """Whether a file of settings carries the hash that `save_recipe` writes."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(len(TEXT_SEAL)) == TEXT_SEAL


def _parse_yaml(path: Path, text: str) -> Any:
    if text.startswith(TEXT_SEAL) and unsealed_text(text) is None:
        raise ConfigError(
            f"{path}: was altered after it was written (its first line does not fit the others); put it back, or remove "
            "that line to use the file as a recipe of your own"
        )
    return parse_yaml(text) or {}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(settings: dict[str, Any], keys: list[str], value: Any, word: str) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"command line: '{word}' descends into '{key}', which is a value, not a section")
    settings[keys[-1]] = value


def _is_text(keys: Sequence[str]) -> bool:
    """Whether a setting of ours is text, which a word of the command line gives as it is written."""
    section: Any = Recipe
    for key in keys[:-1]:
        field = section.model_fields.get(key)
        section = None if field is None else field.annotation
        if not (isinstance(section, type) and issubclass(section, Section)):
            return False
    field = section.model_fields.get(keys[-1])
    return field is not None and field.annotation in (str, str | None)


def _explain(item: Any, source: str, settings: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'{_nearest(location, settings)}"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], dict):  # of several settings together: the message names them
        return f"{source}: '{key}': {message}" if key else f"{source}: {message}"
    return f"{source}: '{key}': {message} (given: {item['input']!r})"


def _nearest(location: list[str], given: dict[str, Any]) -> str:
    section: Any = Recipe
    for part in location[:-1]:
        section, given = _section_type(section, part, given), given.get(part) or {}
    elsewhere = [path for path in _paths(Recipe) if path.rpartition(".")[2] == location[-1]]
    if elsewhere and nearest(location[-1], section.model_fields) is None:  # a right name in the wrong section
        return f"; did you mean '{min(elsewhere, key=len)}'?"
    return instead(location[-1], section.model_fields, "".join(f"{part}." for part in location[:-1]))


def _paths(section: type[Section], above: str = "") -> Iterator[str]:
    """The dotted name of every setting."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _paths(field.annotation, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _section_type(section: type[Section], part: str, given: dict[str, Any]) -> Any:
    """The class of the section `part` of `section`, whose settings are `given`: a declared field, or a foreign component's."""
    if part in section.model_fields:
        return section.model_fields[part].annotation
    assert issubclass(section, ComponentSection)
    for field, group in section.COMPONENTS.items():
        for name in (given.get(field), part):
            if name and section_name(name) == part and (":" in name or name in names(group)):
                return component(group, name).Config
    raise AssertionError(part)
