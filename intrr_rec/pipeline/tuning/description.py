"""What is searched, from a YAML file: data, recipe, ranges of settings, and where the trials run."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, model_validator

from intrr_rec.config import Recipe, Section, load_recipe
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.places import url_of
from intrr_rec.pipeline.described import read_described, seen_from
from intrr_rec.pipeline.description import Ask, Option

SEARCHED = ("model", "train", "evaluate")  # sections that a training job reads
Number = int | float
Value = bool | int | float | str


class Range(Section):
    """Values of a setting: from `low` to `high`, or one of `values`."""

    low: Number | None = Field(None, description="least value; integers where low, high and step are integers")
    high: Number | None = Field(None, description="greatest value")
    step: Number | None = Field(None, gt=0, description="between values")
    log: bool = Field(False, description="even in the logarithm, as for a learning rate")
    values: tuple[Value, ...] | None = Field(None, min_length=1, description="the values, without an order")

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        bounds = (self.low, self.high)
        if (self.values is None) == (None in bounds) or (self.values is not None and bounds != (None, None)):
            raise ValueError("give low and high, or values")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and (self.step is not None or self.low is None or self.low <= 0):
            raise ValueError("log needs low > 0, and no step")
        return self

    def samples(self) -> list[Value]:
        """Values that a recipe must take for the search to begin."""
        return (
            list(self.values)
            if self.values is not None
            else [each for each in (self.low, self.high) if each is not None]
        )


class Prune(Section):
    """When a trial is stopped: its best validation is below the median of those of the trials before, at the same epoch."""

    trials: int = Field(5, ge=1, description="trials that end before any is stopped")
    epochs: int = Field(2, ge=0, description="epochs of a trial before it may be stopped")


class Study(Section):
    """A file of `intrr tune`. Paths are absolute or relative to it; dataset, Semantic IDs and vectors may be URLs."""

    work: Path = Field(description="folder of the study: trials, their jobs' output, best.yaml; seen by every node")
    dataset: Path = Field(description="dataset of all trials")
    semantic_ids: Path = Field(description="Semantic IDs of all trials")
    vectors: Path | None = Field(None, description="item vectors, for model.content and neighbours")
    recipe: Path | None = Field(None, description="settings of every trial")
    settings: tuple[str, ...] = Field((), description="SECTION.KEY=VALUE over the recipe")
    search: dict[str, Range] = Field(min_length=1, description="setting → its values")
    metric: str = Field("recall@10", description="validation metric whose best value of a trial counts")
    trials: int = Field(20, ge=1, description="how many, in all")
    at_once: int = Field(1, ge=1, description="trials that run at the same time")
    prune: Prune | None = Field(Prune(), description="null: no trial is stopped early")
    keep: int = Field(3, ge=1, description="best trials whose checkpoints stay")
    seed: int = Field(0, ge=0, description="of the search")
    scheduler: str = Field("local_cwd", description="TorchX scheduler of all trials")
    options: dict[str, Option] = Field({}, description="of the scheduler, as `torchx runopts` lists them")
    image: str | None = Field(None, description="container image, where the scheduler runs containers")
    env: dict[str, str] = Field({}, description="environment of all jobs")
    mounts: tuple[str, ...] = Field((), description="such as type=bind, src=/host, dst=/job")
    rdzv_port: int = Field(
        29500, ge=1, lt=65_536, description="port where ranks of several nodes meet; counted up by trial"
    )
    job: Ask = Field(Ask(max_retries=3), description="what a trial asks for: h, j, max_retries")

    def words(self, values: dict[str, Value]) -> list[str]:
        """The settings of a trial, over the recipe."""
        return [*self.settings, *(f"{key}={_in_yaml(value)}" for key, value in values.items())]

    def recipe_of(self, values: dict[str, Value]) -> Recipe:
        """The recipe of a trial.

        Raises:
            ConfigError: values that do not go together.
        """
        return load_recipe(self.recipe, self.words(values))


def load_study(path: Path) -> Study:
    """Read a file; its paths come out absolute, and each range fits its setting.

    Raises:
        ConfigError: cannot be read, an unknown or missing key, a value that does not fit, or a setting that training does not read.
    """
    study = read_described(path, Study, {"search": Range, "prune": Prune, "job": Ask})
    if url_of(study.work):
        raise ConfigError(f"{path}: 'work': is a URL; the journal of a study needs a local or mounted folder")
    keys = ("work", "dataset", "semantic_ids", "vectors", "recipe")
    study = study.model_copy(
        update={key: seen_from(path, found) for key in keys if (found := getattr(study, key)) is not None}
    )
    _require_fitting(study, path)
    return study


def _require_fitting(study: Study, path: Path) -> None:
    for key, values in study.search.items():
        if key.partition(".")[0] not in SEARCHED:
            raise ConfigError(f"{path}: search: '{key}': a trial is one training; search within {', '.join(SEARCHED)}")
        for value in values.samples():
            _require_value(study, key, value, path)


def _require_value(study: Study, key: str, value: Value, path: Path) -> None:
    try:
        study.recipe_of({key: value})
    except ConfigError as error:
        raise ConfigError(f"{path}: search: {error}") from None


def _in_yaml(value: Value) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
