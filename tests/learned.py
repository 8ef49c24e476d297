"""Bounds on what an optimization reached: checked here, their margins measured by `python -m tests.margins`.

Where an optimization ends hangs on the order of additions, which differs from processor to processor and with the number of
threads. So a bound keeps three standard deviations from what ten seeds reach on three kinds of processor.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

SEED, FIGURES = "INTRR_TEST_SEED", "INTRR_TEST_FIGURES"


class Learned:
    """The figures of one test.

    Attributes:
        seed: what the test draws from; 0 except under `python -m tests.margins`.
    """

    def __init__(self, test: str) -> None:
        self.test = test
        self.seed = int(os.environ.get(SEED, "0"))

    def above(self, name: str, value: float, bound: float) -> None:
        """`value` must be more than `bound`."""
        self._keep(name, value, bound, "above")
        assert value > bound, f"{name}: {value} is not above {bound} (seed {self.seed})"

    def below(self, name: str, value: float, bound: float) -> None:
        """`value` must be less than `bound`."""
        self._keep(name, value, bound, "below")
        assert value < bound, f"{name}: {value} is not below {bound} (seed {self.seed})"

    def _keep(self, name: str, value: float, bound: float, side: str) -> None:
        if path := os.environ.get(FIGURES):
            record = {"test": self.test, "name": name, "value": float(value), "bound": float(bound), "side": side}
            with Path(path).open("a") as file:
                file.write(json.dumps(record) + "\n")
