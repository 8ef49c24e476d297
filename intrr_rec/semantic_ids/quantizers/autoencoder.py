"""What trained quantisers share: codebooks as a module, encoder and decoder, and the loop that learns them.

Shape legend: I items, B items of a batch, D width, Z width of the latent, L levels, l levels so far, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from intrr_rec.config import AutoencoderConfig, CodebookTraining
from intrr_rec.semantic_ids.quantizers.kmeans import assign, fit_kmeans
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, TensorSource, VectorSource

INIT_ITERATIONS = 10


def straight_through(z_BZ: Tensor, quantized_BZ: Tensor) -> Tensor:
    """The value of `quantized_BZ`, the gradient of `z_BZ` (van den Oord et al. 2017, section 3.2)."""
    return quantized_BZ + (z_BZ - z_BZ.detach())


@dataclass(frozen=True)
class Quantized:
    """`codes_BL`; each level's input and chosen codeword, both `[B, Z_l]`; the latent rebuilt from the codes alone."""

    codes_BL: Tensor
    inputs: list[Tensor]
    chosen: list[Tensor]
    latent_BZ: Tensor


class Codebooks(nn.Module):
    """L codebooks that quantise a latent, by residuals or, with `product`, each its own slice of it.

    With `normalize` (residuals only) every level's input is L2-normalised, and the codewords are put back at a learned
    length a level. Codewords are parameters; with moving averages they are changed in place and get no gradient.
    """

    def __init__(self, sizes: Sequence[int], width: int, *, normalize: bool = False, product: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.product = product
        self.widths = [len(part) for part in torch.arange(width).tensor_split(len(sizes))] if product else None
        widths = self.widths or [width] * len(sizes)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(n_codes, size)) for n_codes, size in zip(sizes, widths, strict=True)
        )
        for table_KZ in self.tables:
            nn.init.normal_(table_KZ, std=table_KZ.shape[1] ** -0.5)
        self.scale_L = nn.Parameter(torch.ones(len(sizes)), requires_grad=normalize)

    def forward(self, z_BZ: Tensor) -> Quantized:
        """Choose the nearest codeword at every level."""
        codes, inputs, chosen = [], [], []
        left_BZ = z_BZ
        for level, table_KZ in enumerate(self.tables):
            input_BZ = self._input(z_BZ, left_BZ, level)
            codes_B = nearest(input_BZ.detach(), table_KZ.detach())
            codes.append(codes_B)
            inputs.append(input_BZ)
            chosen.append(table_KZ[codes_B])
            if not self.product:
                left_BZ = input_BZ - chosen[-1].detach()
        codes_BL = torch.stack(codes, 1)
        return Quantized(codes_BL, inputs, chosen, self._rebuild([c_BZ.detach() for c_BZ in chosen]))

    def level_input(self, z_BZ: Tensor, codes_Bl: Tensor) -> Tensor:
        """What level l is given once the levels before it chose `codes_Bl`."""
        level, left_BZ = codes_Bl.shape[1], z_BZ
        for before in range(0 if self.product else level):
            left_BZ = self._input(z_BZ, left_BZ, before) - self.tables[before][codes_Bl[:, before]]
        return self._input(z_BZ, left_BZ, level)

    def rebuild(self, codes_Bl: Tensor) -> Tensor:
        """The latent `[B, Z]` of the first l codes; levels not given are zero (residuals) or average (slices)."""
        level = codes_Bl.shape[1]
        chosen = [table_KZ[codes_B] for table_KZ, codes_B in zip(self.tables, codes_Bl.unbind(1), strict=False)]
        if self.product:
            chosen += [table_KZ.mean(0).expand(len(codes_Bl), -1) for table_KZ in self.tables[level:]]
        return self._rebuild(chosen)

    @torch.no_grad()
    def initialise(self, z_IZ: Tensor, generator: torch.Generator) -> None:
        """k-means (k-means++ seeding) on what each level is given, one level after another."""
        left_IZ = z_IZ
        scale_I = z_IZ.new_ones(len(z_IZ))
        for level, table_KZ in enumerate(self.tables):
            if self.normalize:
                scale_I = scale_I * left_IZ.norm(dim=1)
                self.scale_L[level] = scale_I.mean()
            input_IZ = self._input(z_IZ, left_IZ, level).contiguous()
            seed = int(torch.randint(1 << 30, (1,), generator=generator))
            result = fit_kmeans(
                TensorSource(input_IZ), len(table_KZ), iterations=INIT_ITERATIONS, tolerance=1e-4, seed=seed
            )
            table_KZ.copy_(result.centroids_KD)
            left_IZ = input_IZ - table_KZ[assign(input_IZ, table_KZ)[0]]

    def _input(self, z_BZ: Tensor, left_BZ: Tensor, level: int) -> Tensor:
        if self.widths is not None:
            return z_BZ.split(self.widths, 1)[level]
        return normalize(left_BZ, dim=1) if self.normalize else left_BZ

    def _rebuild(self, chosen: list[Tensor]) -> Tensor:
        if self.product:
            return torch.cat(chosen, 1)
        total_BZ = chosen[0] * self.scale_L[0]
        for level, chosen_BZ in enumerate(chosen[1:], start=1):
            total_BZ = total_BZ + chosen_BZ * self.scale_L[level]
        return total_BZ


class MovingAverages:
    """Codewords as exponential moving averages of the inputs given to them (van den Oord et al. 2017, appendix A.1)."""

    def __init__(self, codebooks: Codebooks, decay: float) -> None:
        self.tables = codebooks.tables
        self.decay = decay
        self.counts = [torch.ones_like(table_KZ[:, 0]) for table_KZ in self.tables]
        self.sums = [table_KZ.detach().clone() for table_KZ in self.tables]

    @torch.no_grad()
    def update(self, quantized: Quantized) -> None:
        """One step of N ← γN + (1-γ)n, m ← γm + (1-γ)Σz, codeword = m / N."""
        for level, table_KZ in enumerate(self.tables):
            codes_B, input_BZ = quantized.codes_BL[:, level], quantized.inputs[level]
            counts_K, sums_KZ = self.counts[level], self.sums[level]
            given_K = torch.bincount(codes_B, minlength=len(table_KZ)).to(counts_K)
            counts_K.lerp_(given_K, 1 - self.decay)
            sums_KZ.lerp_(torch.zeros_like(sums_KZ).index_add_(0, codes_B, input_BZ), 1 - self.decay)
            table_KZ.copy_(sums_KZ / counts_K.clamp(min=1e-5).unsqueeze(1))

    def restart(self, level: int, codes: Tensor) -> None:
        """Begin the averages of some codes anew at their codewords."""
        self.counts[level][codes] = 1.0
        self.sums[level][codes] = self.tables[level].detach()[codes]


class Autoencoder(nn.Module):
    """BatchNorm → L2 → perceptron to the latent, and a mirrored perceptron back to the L2-normalised vector."""

    def __init__(self, width: int, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [width, *config.hidden, config.latent]
        self.norm = nn.BatchNorm1d(width, affine=False) if config.batch_norm else nn.Identity()
        self.encoder = _perceptron(widths)
        self.decoder = _perceptron(widths[::-1])

    def encode(self, x_BD: Tensor) -> Tensor:
        """Latents `[B, Z]`."""
        latent_BZ: Tensor = self.encoder(normalize(self.norm(x_BD), dim=1))
        return latent_BZ

    def decode(self, z_BZ: Tensor) -> Tensor:
        """Vectors `[B, D]`, L2-normalised as far as the decoder has learned it."""
        rebuilt_BD: Tensor = self.decoder(z_BZ)
        return rebuilt_BD


def default_device() -> torch.device:
    """Where training runs: an accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def nearest(x_BZ: Tensor, table_KZ: Tensor) -> Tensor:
    """int64 code of the row nearest to each x."""
    return torch.addmm(table_KZ.square().sum(1), x_BZ, table_KZ.T, alpha=-2).argmin(1)


def codebook_loss(quantized: Quantized, training: CodebookTraining) -> Tensor:
    """Σ_l of ‖sg(z) - c‖² + β‖z - sg(c)‖², mean over the batch; the first term only where codewords learn by gradient."""
    total = quantized.latent_BZ.new_zeros(())
    for input_BZ, chosen_BZ in zip(quantized.inputs, quantized.chosen, strict=True):
        if training.update == "gradient":
            total = total + (input_BZ.detach() - chosen_BZ).square().sum(1).mean()
        total = total + training.commitment * (input_BZ - chosen_BZ.detach()).square().sum(1).mean()
    return total


def learn(
    source: VectorSource,
    codebooks: Codebooks,
    training: CodebookTraining,
    encode: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor, Quantized], tuple[Tensor, Tensor]],
    parameters: Sequence[nn.Parameter],
    generator: torch.Generator,
    report: Callable[[int, float], None],
) -> None:
    """Train codebooks, and what lies around them, by Adam with a cosine schedule.

    Args:
        encode: vectors `[B, D]` → what is quantised `[B, Z]`.
        loss: (item ids `[B]`, vectors, their quantisation) → the loss and the figure to report.
        parameters: all that learns by gradient, codewords included or not.
        report: told (epochs done, mean figure) after each epoch.
    """
    device = codebooks.scale_L.device
    averages = MovingAverages(codebooks, training.ema_decay) if training.update == "ema" else None
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if averages is not None:
        tables = set(codebooks.tables)
        learning = [parameter for parameter in learning if parameter not in tables]
    optimizer = torch.optim.Adam(learning, training.learning_rate) if learning else None
    steps = training.epochs * max(1, -(-source.n_items // training.batch_items))
    step = 0
    for epoch in range(1, training.epochs + 1):
        used = [torch.zeros(len(table_KZ), device=device) for table_KZ in codebooks.tables]
        total, count, quantized = torch.zeros((), device=device), 0, None
        for ids_B, x_BD in batches(source, training.batch_items, generator):
            x_BD = x_BD.to(device)
            quantized = codebooks(encode(x_BD))
            value, figure = loss(ids_B, x_BD, quantized)
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = training.learning_rate * _cosine(step / steps)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            if averages is not None:
                averages.update(quantized)
            for level, used_K in enumerate(used):
                used_K.index_add_(0, quantized.codes_BL[:, level], torch.ones_like(x_BD[:, 0]))
            total, count, step = total + figure.detach() * len(x_BD), count + len(x_BD), step + 1
        if training.restart and epoch < training.epochs and quantized is not None:
            for level, used_K in enumerate(used):
                _restart(codebooks, averages, level, used_K, quantized, generator)
        report(epoch, float(total) / max(count, 1))


def batches(source: VectorSource, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass in seeded random order within each block, in batches of at least two items."""
    for ids_P, x_PD in source.blocks():
        for chosen_B in torch.randperm(len(ids_P), generator=generator).split(size):
            if len(chosen_B) > 1:
                yield ids_P[chosen_B], x_PD[chosen_B]


def epoch_reporter(what: str, epochs: int, on_progress: OnProgress | None) -> Callable[[int, float], None]:
    """`report` of `learn`, for an `OnProgress`."""
    return lambda epoch, figure: on_progress(what, epoch, epochs, figure) if on_progress is not None else None


@torch.no_grad()
def _restart(
    codebooks: Codebooks,
    averages: MovingAverages | None,
    level: int,
    used_K: Tensor,
    quantized: Quantized,
    generator: torch.Generator,
) -> None:
    dead = (used_K == 0).nonzero().squeeze(1)
    rows = torch.randperm(len(quantized.codes_BL), generator=generator)[: len(dead)]
    dead = dead[: len(rows)]
    if len(dead):
        codebooks.tables[level][dead] = quantized.inputs[level][rows.to(dead.device)]
        if averages is not None:
            averages.restart(level, dead)


def _cosine(share: float) -> float:
    return 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi))))


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
