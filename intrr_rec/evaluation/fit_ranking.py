"""Weights of the ranking's features, fitted: a conditional logit over the candidates of users whose next item is known.

P(target) = exp(w · f_target) / sum over the user's candidates of exp(w · f). The sum of -log P and a small ridge is convex in
w; Newton's method with halved steps needs it, its gradient and its Hessian, 1 + F + F² numbers, which are summed over ranks. So the weights are the same however
users are dealt out, up to rounding.

Shape suffixes: B users, W candidates, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from intrr_rec.distributed.world import World

STEPS = 50
HALVINGS = 20
RIDGE = 1.0  # of the weights of features scaled to a standard deviation of 1
CLOSE = 1e-8  # of the step, at which it has converged


def fit_weights(parts: Sequence[tuple[Tensor, Tensor, Tensor]], features: int, world: World) -> Tensor:
    """The weights, float32 `[F]`, the same on every rank; every rank calls this.

    Args:
        parts: of this rank's users: candidates `[B, W]` (-1 where a place is empty), their features `[B, W, F]`, and the target
            `[B]`. Users whose target is no candidate tell nothing and are left out.
        features: F.
        world: this rank among its peers.
    """
    kept = [_with_target(*part) for part in parts]
    deviation_F = _deviations(kept, features, world)
    weight_F = torch.zeros(features, dtype=torch.float64)
    loss, gradient_F, hessian_FF = _objective(kept, weight_F, deviation_F, world)
    for _ in range(STEPS):
        step_F = torch.linalg.solve(hessian_FF, gradient_F)
        # A whole step may overshoot where the choices are nearly certain: halve it until the objective falls.
        for halving in range(HALVINGS):
            tried_F = weight_F - step_F / 2**halving
            found = _objective(kept, tried_F, deviation_F, world)
            if found[0] < loss:
                break
        else:
            break
        weight_F, (loss, gradient_F, hessian_FF) = tried_F, found
        if float(step_F.abs().max()) < CLOSE:
            break
    return (weight_F / deviation_F).float()


def _objective(
    kept: Iterable[tuple[Tensor, Tensor, Tensor]], weight_F: Tensor, deviation_F: Tensor, world: World
) -> tuple[float, Tensor, Tensor]:
    """The sum of -log P(target) and the ridge, over the users of all ranks, with gradient and Hessian."""
    features = len(weight_F)
    total = torch.zeros(1 + features + features**2, dtype=torch.float64)
    for is_there_BW, feature_BWF, place_B in kept:
        scaled_BWF = feature_BWF.double() / deviation_F
        log_p_BW = (scaled_BWF @ weight_F).masked_fill(~is_there_BW, -torch.inf).log_softmax(dim=1)
        p_BW, users = log_p_BW.exp(), torch.arange(len(place_B))
        mean_BF = (p_BW[..., None] * scaled_BWF).sum(1)
        hessian_FF = torch.einsum("bw,bwf,bwg->fg", p_BW, scaled_BWF, scaled_BWF) - mean_BF.T @ mean_BF
        gradient_F = (mean_BF - scaled_BWF[users, place_B]).sum(0)
        total += torch.cat([-log_p_BW[users, place_B].sum()[None], gradient_F, hessian_FF.flatten()])
    total = world.sum(total)
    loss = float(total[0] + RIDGE / 2 * weight_F.square().sum())
    gradient_F = total[1 : 1 + features] + RIDGE * weight_F
    hessian_FF = total[1 + features :].view(features, features) + RIDGE * torch.eye(features, dtype=torch.float64)
    return loss, gradient_F, hessian_FF


def _with_target(item_BW: Tensor, feature_BWF: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places taken, features, and the target's place, on the CPU, of the users whose target is a candidate."""
    is_target_BW = item_BW == target_B[:, None]
    told_B = is_target_BW.any(1)
    place_B = is_target_BW.int().argmax(1)[told_B]
    return (item_BW >= 0)[told_B].cpu(), feature_BWF[told_B].cpu(), place_B.cpu()


def _deviations(kept: Iterable[tuple[Tensor, Tensor, Tensor]], features: int, world: World) -> Tensor:
    """Of each feature over all candidates."""
    sums_3F = torch.zeros(3, features, dtype=torch.float64)
    for is_there_BW, feature_BWF, _ in kept:
        value_NF = feature_BWF[is_there_BW].double()
        sums_3F += torch.stack([torch.ones_like(value_NF).sum(0), value_NF.sum(0), value_NF.square().sum(0)])
    count_F, total_F, squares_F = world.sum(sums_3F)
    count_F = count_F.clamp(min=1)
    deviation_F = (squares_F / count_F - (total_F / count_F).square()).clamp(min=0).sqrt()
    return torch.where(deviation_F > 0, deviation_F, 1.0)
