"""RQ-VAE (Lee et al. 2022; TIGER): an autoencoder whose latent is quantised by residual codebooks.

BatchNorm → L2 → perceptron → L residual codebooks → perceptron → the L2-normalised vector. The codebooks begin at the
k-means of the first latents, level after level; gradients pass them straight through; a code that an epoch never used
begins anew at a latent. `VqVae` differs in how the latent is shared among the levels only.

Shape legend: I items, B items of a batch, D width, Z width of the latent, L levels, l levels so far, C width of the
collaborative vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from intrr_rec.config import IndexConfig, Section
from intrr_rec.semantic_ids.quantizers.autoencoder import (
    Autoencoder,
    Codebooks,
    Quantized,
    batches,
    codebook_loss,
    default_device,
    epoch_reporter,
    learn,
    straight_through,
)
from intrr_rec.semantic_ids.quantizers.collaborative import Alignment, diversity_loss
from intrr_rec.semantic_ids.quantizers.exact import Peers
from intrr_rec.semantic_ids.quantizers.kmeans import assign
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, VectorSource, relative_error, sample_rows

ROWS = 8_192  # encoded at once, so that memory does not grow with the block


class RqVae(nn.Module):
    """A `Quantizer` over the latents of an autoencoder.

    `relative_error` is that of the decoder's output against the L2-normalised vector, so methods can be compared by it;
    after fewer than all levels the decoder is given a latent it was not trained on.

    Args:
        config: all that `index` settings say.
        width: D.
        collaborative_IC: what to align item i's latent to; a row of zeros where nothing is known of it.
    """

    Config: ClassVar[type[Section]] = Section
    fits_together: ClassVar[bool] = False
    NAME = "RQ-VAE"
    PRODUCT = False

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> RqVae:
        """The quantizer of these settings, not fitted yet."""
        return cls(config, width, collaborative_IC)

    def __init__(self, config: IndexConfig, width: int, collaborative_IC: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.sizes = config.sizes
        self.relative_error: list[float] = []
        self.collaborative_IC = collaborative_IC
        shape = config.autoencoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.autoencoder = Autoencoder(width, shape)
            self.tables = Codebooks(
                self.sizes, shape.latent, normalize=shape.normalize_levels and not self.PRODUCT, product=self.PRODUCT
            )
            self.alignment = (
                None
                if collaborative_IC is None
                else Alignment(shape.latent, collaborative_IC.shape[1], config.collaborative.temperature)
            )

    @property
    def codebooks(self) -> list[Tensor]:
        """L tables `[K_l, Z_l]`, in the latent; the memory is the model's own."""
        return [table_KZ.detach() for table_KZ in self.tables.tables]

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Train encoder, codebooks and decoder together.

        Raises:
            ConfigError: the vectors the codebooks begin from hold fewer distinct points than codes.
        """
        config, epochs = self.config, self.config.training.epochs
        generator = torch.Generator().manual_seed(config.seed)
        self.to(default_device()).train()
        warmup = config.autoencoder.warmup_epochs
        self._warm_up(source, generator, epoch_reporter(f"{self.NAME} warm-up", warmup, on_progress))
        with torch.no_grad():
            start_ID = sample_rows(source)
            self.eval() if config.autoencoder.warmup_epochs else self.train()
            latents_IZ = torch.cat([self.autoencoder.encode(x_BD.to(self._device)) for x_BD in start_ID.split(ROWS)])
            self.train()
            self.tables.initialise(latents_IZ, generator)
        learn(
            source,
            self.tables,
            config.training,
            encode=self.autoencoder.encode,
            loss=self._loss,
            parameters=list(self.parameters()),
            generator=generator,
            report=epoch_reporter(self.NAME, epochs, on_progress),
        )
        # Assignment runs where vectors are read, as it does after `load_state`: an extension finds the codes of the build.
        self.cpu().eval()
        self.relative_error = relative_error(self, source)

    @torch.no_grad()
    def assign(self, x_ID: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codewords in the latent: int64 `codes_IL` and `distances_I` of the decoder's output."""
        z_IZ = self._encode(x_ID)
        codes_IL = torch.empty(len(x_ID), 0, dtype=torch.int64)
        for table_KZ in self.tables.tables:
            input_IZ = self.tables.level_input(z_IZ, codes_IL)
            codes_IL = torch.cat([codes_IL, assign(input_IZ, table_KZ)[0].unsqueeze(1)], 1)
        return codes_IL, self._distance(x_ID, codes_IL)

    @torch.no_grad()
    def level_input(self, x_ID: Tensor, codes_Il: Tensor) -> Tensor:
        """`[I, Z_l]` that level l is given once the levels before it chose `codes_Il`."""
        return self.tables.level_input(self._encode(x_ID), codes_Il)

    @torch.no_grad()
    def distances(self, x_ID: Tensor, codes_IL: Tensor) -> Tensor:
        """`[I, 1 + L]` under any codes: squared norm of the normalised vector, then the distance left by each level."""
        columns = [normalize(x_ID, dim=1).square().sum(1)]
        columns += [self._distance(x_ID, codes_IL[:, : level + 1]) for level in range(len(self.sizes))]
        return torch.stack(columns, 1)

    def state(self) -> dict[str, Tensor]:
        """All that `assign` needs, by name, for safetensors."""
        return {
            name: tensor.detach().cpu() for name, tensor in self.state_dict().items() if not name.startswith("align")
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        own = {name: state.get(name, tensor) for name, tensor in self.state_dict().items()}
        self.load_state_dict(own)
        self.eval()

    @property
    def _device(self) -> torch.device:
        return self.tables.scale_L.device

    def _encode(self, x_ID: Tensor) -> Tensor:
        return torch.cat([self.autoencoder.encode(x_BD) for x_BD in x_ID.split(ROWS)])

    def _distance(self, x_ID: Tensor, codes_Il: Tensor) -> Tensor:
        parts = []
        for x_BD, codes_Bl in zip(x_ID.split(ROWS), codes_Il.split(ROWS), strict=True):
            rebuilt_BD = self.autoencoder.decode(self.tables.rebuild(codes_Bl))
            parts.append((normalize(x_BD, dim=1) - rebuilt_BD).square().sum(1))
        return torch.cat(parts)

    def _loss(self, ids_B: Tensor, x_BD: Tensor, quantized: Quantized) -> tuple[Tensor, Tensor]:
        through_BZ = straight_through(self._latent(quantized), quantized.latent_BZ)
        error = (normalize(x_BD, dim=1) - self.autoencoder.decode(through_BZ)).square().sum(1).mean()
        total = error + codebook_loss(quantized, self.config.training)
        settings = self.config.collaborative
        if self.alignment is not None and self.collaborative_IC is not None:
            known_BC = self.collaborative_IC[ids_B].to(x_BD.device)
            total = total + settings.weight * self.alignment(through_BZ, known_BC)
        if settings.diversity:
            total = total + settings.diversity * diversity_loss(quantized.inputs, list(self.tables.tables))
        return total, error

    def _latent(self, quantized: Quantized) -> Tensor:
        """The latent that was quantised: the first residual, or all slices side by side."""
        return torch.cat(quantized.inputs, 1) if self.PRODUCT else quantized.inputs[0]

    def _warm_up(self, source: VectorSource, generator: torch.Generator, report: Callable[[int, float], None]) -> None:
        """Autoencoding alone, so that the codebooks begin in a latent that means something."""
        optimizer = torch.optim.Adam(self.autoencoder.parameters(), self.config.training.learning_rate)
        for epoch in range(1, self.config.autoencoder.warmup_epochs + 1):
            error = torch.zeros(())
            for _, x_BD in batches(source, self.config.training.batch_items, generator):
                x_BD = x_BD.to(self._device)
                rebuilt_BD = self.autoencoder.decode(self.autoencoder.encode(x_BD))
                error = (normalize(x_BD, dim=1) - rebuilt_BD).square().sum(1).mean()
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
            report(epoch, float(error.detach()))
