"""What each event counts as a target of training: nothing where it is none, else the product of the weights of its values.

Shape suffixes: E events, K numbers of a column.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.features.columns import Column, find
from intrr_rec.errors import ConfigError, DataError, instead

Weights = NDArray[np.float32]
WEIGHED = ("categorical", "boolean")


class TargetWeights:
    """Reads the weight in L_rec of the events of a dataset.

    Args:
        dataset: may mark its targets.
        weights: feature of events → value → weight; a value that is not named counts 1 (`train.target_weights`).
        marked: events that are no targets count nothing; False: as the others (`train.learn_all`).

    Raises:
        ConfigError: a feature or value that the dataset has not, or a feature of another kind.
    """

    def __init__(self, dataset: Dataset, weights: Mapping[str, Mapping[str, float]], *, marked: bool = True) -> None:
        self.dataset = dataset
        self.marked = marked and dataset.events.marks_targets
        columns = [] if dataset.features is None else dataset.features.record.of("event")
        self.tables = [_table(columns, name, by_value) for name, by_value in weights.items()]

    @classmethod
    def of(
        cls, dataset: Dataset, weights: Mapping[str, Mapping[str, float]], *, marked: bool = True
    ) -> TargetWeights | None:
        """None where every event counts the same."""
        found = cls(dataset, weights, marked=marked)
        return found if found.tables or found.marked else None

    def of_group(self, group: int) -> Weights:
        """Of the events of one row group, `[E]`."""
        events = self.dataset.events
        first, end = events.events_of(group)
        weight_E = events.read_marks(group).astype(np.float32) if self.marked else np.ones(end - first, np.float32)
        for column, weight_K in self.tables:
            assert self.dataset.features is not None
            weight_E = weight_E * weight_K[self.dataset.features.of_group(group, column)]
        return weight_E

    def whole(self) -> Weights:
        """Of all events, `[E]`."""
        return np.concatenate([self.of_group(group) for group in range(len(self.dataset.events.groups))])


def _table(columns: list[Column], name: str, by_value: Mapping[str, float]) -> tuple[Column, Weights]:
    where = f"train.target_weights.{name}"
    try:
        column = find(columns, name)[0]
    except DataError:
        known = instead(name, [each.feature for each in columns]) or "; declare it in prepare.features.event"
        raise ConfigError(f"{where}: the dataset has no such feature of events{known}") from None
    if column.kind not in WEIGHED:
        raise ConfigError(f"{where}: is {column.kind}; name a feature that is {' or '.join(WEIGHED)}")
    weight_K = np.ones(column.rows, np.float32)
    for word, weight in by_value.items():
        if column.values is not None and word not in column.values:
            raise ConfigError(f"{where}: no event has '{word}'{instead(word, column.values[:50])}")
        try:
            weight_K[column.number(word)] = weight
        except DataError as error:
            raise ConfigError(f"{where}: {error}") from None
    return column, weight_K
