"""The learning rate: what the schedule says at each step, per group, and the same after a resume."""

import pytest
import torch

from intrr_rec.config import TrainConfig
from intrr_rec.training.schedule import Schedule, learning_rate_share


def shares(total, **settings):
    return [learning_rate_share(TrainConfig(**settings), step, total) for step in range(total)]


def test_constant_is_one_throughout():
    assert shares(5) == [1.0] * 5


def test_linear_falls_in_equal_steps_to_its_last():
    assert shares(4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_warm_up_rises_in_equal_steps_and_hands_over_to_the_schedule():
    assert shares(6, schedule="linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert shares(4, warmup_steps=3) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


def test_each_group_keeps_its_own_proportion():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = Schedule(optimizer, TrainConfig(schedule="linear"), total=4)
    for step in (3, 1, 1):
        schedule.apply(step)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.075, 0.015])
