"""A run whose loss or weights are no longer finite numbers stops; nothing of it is kept, exported or served."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from intrr_rec.distributed.finite import is_finite
from intrr_rec.distributed.world import World
from intrr_rec.errors import TrainingError

CHECK_EVERY = 8  # steps between looks where ranks must agree or a device must be waited for
_NEVER = 1 << 62


class FiniteGuard:
    """Notes the first step whose loss was not finite, without waiting for the device.

    Args:
        run: the run folder, for the error message.
        world: this rank among its peers.
    """

    def __init__(self, run: Path, world: World) -> None:
        self.run, self.world = run, world
        self._first = torch.full((), _NEVER, dtype=torch.int64, device=world.device)

    def note(self, loss: Tensor, step: int) -> None:
        """The loss of a step (from 1) is this."""
        first = torch.full_like(self._first, step).minimum(self._first)
        self._first = torch.where(torch.isfinite(loss.detach()).all(), self._first, first)

    def due(self, step: int) -> bool:
        """Whether all ranks look at this step: at each where that costs nothing, else every few."""
        return (self.world.size == 1 and self.world.device.type == "cpu") or step % CHECK_EVERY == 0

    def require_loss(self) -> None:
        """Every rank calls this at one point.

        Raises:
            TrainingError: a loss was not finite; the message names the first such step of any rank.
        """
        first = self._first if self.world.size == 1 else self.world.gather_rows(self._first[None]).min()
        if int(first) < _NEVER:
            raise TrainingError(f"{self.run}: the loss of step {int(first)} is not a finite number; {_CAUSES}")

    def require_weights(self, module: nn.Module, step: int) -> None:
        """Every rank calls this at one point.

        Raises:
            TrainingError: a loss was not finite, or a weight is not.
        """
        self.require_loss()
        if not is_finite(module, self.world):
            raise TrainingError(f"{self.run}: after step {step} a weight is not a finite number; {_CAUSES}")


_CAUSES = (
    "likely causes: train.learning_rate is too high (lower it, or add train.warmup_steps and train.gradient_clip), or item "
    "vectors with huge values; checkpoints before it are kept, this state is not"
)
