"""The learning rate of each step, as a share of the recipe's: a function of the step alone, so resuming needs no state."""

from __future__ import annotations

from torch.optim import Optimizer

from intrr_rec.config import TrainConfig


def learning_rate_share(config: TrainConfig, step: int, total: int) -> float:
    """What the learning rates are multiplied by at `step` (from 0) of `total`: warm-up, then the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    return max(0.0, (total - step) / max(1, total - config.warmup_steps))


class Schedule:
    """Sets the learning rates of an optimizer before each step, each group's in proportion to its own.

    Args:
        optimizer: its groups' present learning rates are those of share 1.
        config: the schedule.
        total: steps of the whole run.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, total: int) -> None:
        self.optimizer = optimizer
        self.config = config
        self.total = total
        self.full = [group["lr"] for group in optimizer.param_groups]

    def apply(self, step: int) -> float:
        """Set the learning rates of `step`, counted from 0; returns their share."""
        share = learning_rate_share(self.config, step, self.total)
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = full * share
        return share
