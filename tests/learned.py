"""Bounds on what an optimization reached: checked here, their margins measured by `python -m tests.margins`.

Where an optimization ends hangs on the order of additions, which differs from processor to processor and with the number of
threads. So a bound keeps three standard deviations from what ten seeds reach on three kinds of processor.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

SEEDS, FIGURES = "INTRR_TEST_SEEDS", "INTRR_TEST_FIGURES"


class Learned:
    """The figures of one test.

    Attributes:
        seed: what the test draws from; 0 alone except under `python -m tests.margins`.
    """

    def __init__(self, test: str, seed: int) -> None:
        self.test = test.replace(f"seed{seed}-", "").replace(f"-seed{seed}", "").replace(f"[seed{seed}]", "")
        self.seed = seed

    def above(self, name: str, value: float, bound: float) -> None:
        """`value` must be more than `bound`."""
        if self._kept(name, value, bound, "above"):
            return
        assert value > bound, f"{name}: {value} is not above {bound} (seed {self.seed})"

    def below(self, name: str, value: float, bound: float) -> None:
        """`value` must be less than `bound`."""
        if self._kept(name, value, bound, "below"):
            return
        assert value < bound, f"{name}: {value} is not below {bound} (seed {self.seed})"

    def _kept(self, name: str, value: float, bound: float, side: str) -> bool:
        """Whether the figure is only written down, for the table to judge."""
        path = os.environ.get(FIGURES)
        if path:
            record = {"test": self.test, "name": name, "side": side, "value": float(value), "bound": float(bound)}
            with Path(path).open("a") as file:
                file.write(json.dumps(record | {"seed": self.seed}) + "\n")
        return bool(path)
