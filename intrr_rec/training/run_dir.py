"""The run folder: settings, inputs, figures and results of one training run.

config.yaml      the fully resolved recipe          metrics.jsonl   one object a line, a figure a key
run.json         inputs and their hashes            tensorboard/    the same figures
plan.txt         the sharding plan                  checkpoints/    last, best
results.json     metrics of the best checkpoint     inspection.json, recommendations/   what it recommends
ranks/           each user's rank of the held-out item
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from intrr_rec.artefact import write_text

CONFIG, INPUTS, PLAN, METRICS = "config.yaml", "run.json", "plan.txt", "metrics.jsonl"
RESULTS, INSPECTION = "results.json", "inspection.json"
RECOMMENDATIONS, RANKS = "recommendations", "ranks"


def checkpoint_path(run: Path, name: str) -> Path:
    """Where the run keeps its checkpoint "last" or "best"."""
    return run / "checkpoints" / name


class MetricsLog:
    """Every figure to JSON lines and TensorBoard; used by the main rank only.

    Args:
        run: the run folder.
        resumed_step: figures of later steps are dropped: they will be measured again.
        seconds: training time before this process.
    """

    def __init__(self, run: Path, resumed_step: int, seconds: float) -> None:
        self.path = run / METRICS
        kept = [line for line in self._lines() if json.loads(line)["step"] <= resumed_step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(run / "tensorboard", purge_step=resumed_step + 1)
        self.started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Training time so far, earlier processes included."""
        return time.monotonic() - self.started

    def write(self, split: str, step: int, epoch: float, figures: dict[str, float]) -> None:
        """Append one line; a NaN is written as null."""
        record: dict[str, Any] = {"split": split, "step": step, "epoch": epoch, "seconds": round(self.seconds, 3)}
        record |= {name: value if value == value else None for name, value in figures.items()}
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self.board.close()

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        # A kill may have cut the last line short.
        return [line for line in self.path.read_text().splitlines() if line.endswith("}")]
