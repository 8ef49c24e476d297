"""Prices of codes from entropic optimal transport (Sinkhorn; Cuturi 2013): `collisions: sinkhorn` shares codes out by them.

Shape legend: S items, D width, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 0.01  # Sinkhorn stops within this share of the capacity


def sinkhorn_prices(
    cost_SK: Tensor, temperature: float, iterations: int, capacity: float, start_K: Tensor | None = None
) -> Tensor:
    """Prices `[K]`, none below zero, under which softmax(-(cost + price) / ε) gives no code more than its capacity.

    The duals of entropic transport with a bound on each code's mass: a code that is not full is free. At a capacity of
    S / K all are full, which is Sinkhorn's balanced plan.

    Args:
        temperature: ε, in units of the mean cost of an item's cheapest code. It is approached from the mean cost of all.
        start_K: prices to begin from, at the final temperature.
    """
    last = temperature * (float(cost_SK.amin(1).mean()) or 1.0)
    first = last if start_K is not None else max(last, float(cost_SK.mean()))
    price_K = cost_SK.new_zeros(cost_SK.shape[1]) if start_K is None else start_K
    for iteration in range(iterations):
        heat = max(last, first * (last / first) ** (2 * iteration / iterations))
        mass_K = torch.softmax(-(cost_SK + price_K) / heat, 1).sum(0)
        if heat <= last and float(mass_K.max()) <= capacity * (1 + TOLERANCE):
            break
        price_K = (price_K + heat * (mass_K.clamp(min=1e-30) / capacity).log()).clamp_(min=0)
    return price_K


def squared_distances(x_SD: Tensor, codebook_KD: Tensor) -> Tensor:
    """`[S, K]`, not below zero."""
    product_SK = torch.addmm(codebook_KD.square().sum(1), x_SD, codebook_KD.T, alpha=-2)
    return (product_SK + x_SD.square().sum(1, keepdim=True)).clamp_(min=0)
