"""Balanced assignment: every code has a price, so that all are used about equally often and fewer items share a path.

The prices are the dual variables of entropic optimal transport (Sinkhorn; Cuturi 2013) between the items and the codes,
no code to be given more than its capacity. Fitting alternates between prices and codewords, as k-means does. An item then takes the code with the least squared distance plus price: as cheap as
the nearest one, one matrix product a block, and the same for items that come later. Of any method.

Shape legend: I items, S sample, D width, L levels, l levels so far, K codes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from intrr_rec.config import BalanceConfig, IndexConfig, Section, component
from intrr_rec.semantic_ids.quantizers.exact import Peers
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, Quantizer, VectorSource, relative_error, sample_rows

BLOCK = 8_192  # items whose distances to all codes are held at once
TOLERANCE = 0.01  # of a code's mass, where Sinkhorn stops


class Balanced:
    """A `Quantizer` that gives codes by distance plus price under the codebooks of another.

    Args:
        inner: whose codebooks these are; fitted by `fit`, then moved in place.
        settings: capacity, rounds and temperature of the balancing.
    """

    Config: ClassVar[type[Section]] = Section
    fits_together: ClassVar[bool] = False

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> Balanced:
        """Codes by price under the codebooks of the settings' own method."""
        return cls(component("quantizers", config.method).build(config, width, collaborative_IC, peers), config.balance)

    def __init__(self, inner: Quantizer, settings: BalanceConfig) -> None:
        self.inner = inner
        self.settings = settings
        self.sizes = inner.sizes
        self.prices: list[Tensor] = []
        self.relative_error: list[float] = []

    @property
    def codebooks(self) -> list[Tensor]:
        """Those of the inner quantizer."""
        return self.inner.codebooks

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Fit the inner quantizer, then the prices, level after level, on an even sample of the items.

        Raises:
            ConfigError: what the inner quantizer raises.
        """
        self.inner.fit(source, on_progress)
        x_SD = sample_rows(source)
        codes_SL = torch.empty(len(x_SD), 0, dtype=torch.int64, device=x_SD.device)
        self.prices = []
        for level, codebook_KD in enumerate(self.codebooks):
            what = f"Balance level {level + 1}/{len(self.sizes)}"
            input_SD = self.inner.level_input(x_SD, codes_SL)
            price_K, codes_S = self._fit_level(input_SD, codebook_KD, what, on_progress)
            self.prices.append(price_K)
            codes_SL = torch.cat([codes_SL, codes_S.unsqueeze(1)], 1)
        self.relative_error = relative_error(self, source)

    @torch.no_grad()
    def _fit_level(
        self, input_SD: Tensor, codebook_KD: Tensor, what: str, on_progress: OnProgress | None
    ) -> tuple[Tensor, Tensor]:
        """Prices and codes of a level; its codewords are moved in place."""
        settings = self.settings
        capacity = (1 + settings.slack) * len(input_SD) / len(codebook_KD)
        price_K: Tensor | None = None
        for done in range(1, settings.rounds + 1):
            cost_SK = squared_distances(input_SD, codebook_KD)
            price_K = sinkhorn_prices(cost_SK, settings.temperature, settings.iterations, capacity, price_K)
            codes_S = cheapest(input_SD, codebook_KD, price_K)
            count_K1 = torch.bincount(codes_S, minlength=len(codebook_KD)).unsqueeze(1)
            if done < settings.rounds:
                sum_KD = torch.zeros_like(codebook_KD, dtype=torch.float64).index_add_(0, codes_S, input_SD.double())
                mean_KD = (sum_KD / count_K1.clamp(min=1)).to(codebook_KD)
                codebook_KD.copy_(torch.where(count_K1 > 0, mean_KD, codebook_KD))
            if on_progress is not None:
                on_progress(what, done, settings.rounds, float(count_K1.max()) / (len(input_SD) / len(codebook_KD)))
        assert price_K is not None
        return price_K, codes_S

    def assign(self, x_ID: Tensor) -> tuple[Tensor, Tensor]:
        """The code of least squared distance plus price at every level; squared reconstruction distances `[I]`."""
        codes_IL = torch.empty(len(x_ID), 0, dtype=torch.int64, device=x_ID.device)
        for codebook_KD, price_K in zip(self.codebooks, self.prices, strict=True):
            codes_I = cheapest(self.inner.level_input(x_ID, codes_IL), codebook_KD, price_K)
            codes_IL = torch.cat([codes_IL, codes_I.unsqueeze(1)], 1)
        return codes_IL, self.distances(x_ID, codes_IL)[:, -1]

    def level_input(self, x_ID: Tensor, codes_Il: Tensor) -> Tensor:
        """That of the inner quantizer."""
        return self.inner.level_input(x_ID, codes_Il)

    def distances(self, x_ID: Tensor, codes_IL: Tensor) -> Tensor:
        """Those of the inner quantizer."""
        return self.inner.distances(x_ID, codes_IL)

    def state(self) -> dict[str, Tensor]:
        """The inner quantizer's, and the prices."""
        return self.inner.state() | {f"price.{level}": price_K for level, price_K in enumerate(self.prices)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.prices = [state[f"price.{level}"] for level in range(len(self.sizes))]
        self.inner.load_state({name: tensor for name, tensor in state.items() if not name.startswith("price.")})


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


def cheapest(x_ID: Tensor, codebook_KD: Tensor, price_K: Tensor) -> Tensor:
    """int64 `[I]`: argmin over codes of squared distance plus price."""
    offset_K = codebook_KD.square().sum(1) + price_K
    blocks = [torch.addmm(offset_K, x_PD, codebook_KD.T, alpha=-2).argmin(1) for x_PD in x_ID.split(BLOCK)]
    return torch.cat(blocks)
