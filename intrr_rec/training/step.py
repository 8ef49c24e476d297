"""One update of the weights: micro-batches forward and backward, the whole gradient clipped, optimizer, EMA."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from intrr_rec.config import TrainConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.distributed.parallelize import Parallel
from intrr_rec.distributed.world import World
from intrr_rec.vectors.precision import autocast, computes_bf16, resolve

log = logging.getLogger(__name__)


class TrainingStep:
    """Steps a model by batches.

    Args:
        parallel: the model, its optimizer and what waits for it.
        config: precision, clipping.
        world: this rank among its peers.
    """

    def __init__(self, parallel: Parallel, config: TrainConfig, world: World) -> None:
        self.parallel = parallel
        self.config = config
        self.world = world
        if config.precision == "bf16" and world.is_main and not computes_bf16(world.device):
            log.warning("train.precision=bf16: this processor emulates it, slower than fp32; `auto` would choose fp32")
        if config.precision == "auto" and world.is_main:
            log.info("train.precision=auto: %s on this processor", resolve("auto", world.device))

    def __call__(self, micro_batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Step by this rank's share of a step, in one micro-batch or several that are accumulated.

        Args:
            micro_batches: of this rank. The rank's loss is the mean of their losses.
            step: of the run, from 0.

        Returns:
            Losses, means over micro-batches; with `gradient_clip`, the norm of the gradient before it as `gradient_norm`.
        """
        parallel = self.parallel
        total: dict[str, Tensor] = {}
        for number, batch in enumerate(micro_batches):
            with autocast(self.config.precision, self.world.device):
                losses = parallel.module(batch.to(self.world.device))
            if number == 0:
                parallel.optimizer.zero_grad(set_to_none=True)
            for name, value in losses.items():
                share = value.detach().float() / len(micro_batches)
                total[name] = total[name] + share if number else share
            (losses["loss"] / len(micro_batches)).backward()
        scale: Tensor | float = 1.0
        if self.config.gradient_clip is not None:
            norm, scale = self._clip(self.config.gradient_clip)
            total["gradient_norm"] = norm
        if parallel.held is not None:
            parallel.held.backward(scale)
        parallel.optimizer.step()
        if parallel.average is not None:
            parallel.average.update(step)
        return total

    @torch.no_grad()
    def _clip(self, largest: float) -> tuple[Tensor, Tensor]:
        """The norm of the gradient, the same on every rank, and what it is multiplied by; the dense part already is."""
        dense = [p.grad for p in self.parallel.dense_parameters if p.grad is not None]
        own = torch.stack(torch._foreach_norm(dense)).square().sum()  # the same on all ranks already
        assert self.parallel.held is not None
        norm = (own + self.world.sum(self.parallel.held.squared_norm(own.device))).sqrt()
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(dense, scale)
        return norm, scale
