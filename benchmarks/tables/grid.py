"""A grid of experiments as data: which datasets, indexers, models and seeds a table needs, and what the paper has there.

Files are named relative to the grid file, as a recipe's `base` is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

import intrr_rec
from intrr_rec.config import Section, read_yaml
from intrr_rec.errors import ConfigError, instead

ACCURACY = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
SHIPPED = Path(intrr_rec.__file__).parents[1] / "benchmarks" / "configs"


class Variant(Section):
    """A recipe with overrides: a row of the table under every dataset and indexer."""

    label: str = Field(description="of the row; unique in the grid")
    recipe: str = Field(description="recipe file")
    set: tuple[str, ...] = Field((), description="section.key=value words over the recipe")
    against: str | None = Field(None, description="label of the row that the relative column compares with")
    indexers: tuple[str, ...] | None = Field(None, description="of the grid's indexers; null: all")


class Grid(Section):
    """One table or figure.

    `published` holds the paper's figures by dataset, indexer and label, in the order of the page's columns; null where the
    paper has none.
    """

    title: str
    rows: str = Field("model", description="what the labels are: heading of their column")
    measure: Literal["accuracy", "training", "latency"] = Field(
        description="train and test; or the speed of training; or of inference by beam width"
    )
    datasets: tuple[str, ...] = Field(min_length=1, description="descriptor files")
    indexers: dict[str, tuple[str, ...]] = Field(min_length=1, description="name → section.key=value words")
    models: tuple[Variant, ...] = Field(min_length=1)
    set: tuple[str, ...] = Field((), description="section.key=value words over every recipe; a model's own win")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="train.seed of the runs; ids are made with index.seed"
    )
    beams: tuple[int, ...] = Field((), description="W of the columns (measure latency)")
    compare: tuple[str, ...] = Field(
        ACCURACY, description="metrics whose relative differences the last column averages"
    )
    picture: Literal["curves", "bars", "line"] = Field(
        "curves",
        description="validation Recall@10 by epoch; test NDCG@10 a bar; test Recall@10 over the label's number",
    )
    published: dict[str, dict[str, dict[str, tuple[float | None, ...]]]] = Field({})
    notes: tuple[str, ...] = Field((), description="sentences under the page's title")

    @property
    def columns(self) -> int:
        """How many figures the paper has for a row: four metrics and the difference; speed and memory; one a beam width."""
        return {"accuracy": len(ACCURACY) + 1, "training": 2, "latency": len(self.beams)}[self.measure]

    @model_validator(mode="after")
    def _consistent(self) -> Grid:
        labels = [model.label for model in self.models]
        if repeated := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"label '{repeated[0]}' is given to two models")
        for model in self.models:
            if model.against is not None and model.against not in labels:
                raise ValueError(f"'{model.label}' is compared with '{model.against}', which is no label here")
            if unknown := set(model.indexers or ()) - set(self.indexers):
                raise ValueError(f"'{model.label}' names indexer '{min(unknown)}', which is not in indexers")
        if (self.measure == "latency") != bool(self.beams):
            raise ValueError("beams are needed by measure latency, and by no other")
        stems = {Path(name).stem for name in self.datasets}
        for dataset, by_indexer in self.published.items():
            for indexer, rows in by_indexer.items():
                if short := [row for row, figures in rows.items() if len(figures) != self.columns]:
                    raise ValueError(
                        f"published figures of '{short[0]}' must be {self.columns}, null where there is none"
                    )
                for wrong in {dataset} - stems | {indexer} - set(self.indexers) | set(rows) - set(labels):
                    raise ValueError(f"published figures name '{wrong}', which is not in this grid")
        return self


def load_grid(name: str) -> tuple[Grid, Path]:
    """The grid called `name`, a shipped one or a YAML file, and where it lies.

    Raises:
        ConfigError: no such grid, an unknown key, or a value that does not fit.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(known.stem for known in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"{path}: no such grid; give one of {shipped}, or a YAML file")
    settings = read_yaml(path)
    try:
        return Grid.model_validate(settings), path
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, path) for item in error.errors())) from None


def _explain(item: Any, path: Path) -> str:
    *above, key = [str(part) for part in item["loc"]] or [""]
    where = ".".join([*above, key])
    if item["type"] == "extra_forbidden":
        known: type[Section] = Variant if above[:1] == ["models"] else Grid
        return f"{path}: unknown key '{where}'" + instead(
            key, known.model_fields, "".join(f"{part}." for part in above)
        )
    if item["type"] == "missing":
        return f"{path}: '{where}' is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{path}: '{where}': {message}" if where else f"{path}: {message}"
