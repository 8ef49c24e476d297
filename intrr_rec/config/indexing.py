"""Settings of Stage 1: item vectors → Semantic IDs."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from intrr_rec.config.components import ComponentSection, Group
from intrr_rec.config.section import Section
from intrr_rec.errors import ConfigError


class CodebookTraining(Section):
    """How `residual_vq`, `vq_vae` and `rq_vae` learn their codebooks (van den Oord et al. 2017; Lee et al. 2022)."""

    epochs: int = Field(40, ge=1, description="passes over the vectors")
    batch_items: int = Field(1024, ge=2, description="vectors per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's")
    commitment: float = Field(0.25, ge=0, description="beta: how strongly the encoder is held to its code")
    update: Literal["gradient", "ema"] = Field(
        "gradient", description="codewords follow the codebook loss, or the moving average of what they are given"
    )
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of the moving averages")
    restart: bool = Field(True, description="put a code that an epoch never used where a vector of the epoch lies")


class AutoencoderConfig(Section):
    """Encoder and decoder of `vq_vae` and `rq_vae`: multilayer perceptrons, the decoder the encoder's mirror."""

    latent: int = Field(64, ge=1, description="width that is quantised")
    hidden: tuple[PositiveInt, ...] = Field((512, 256, 128), description="widths between the vector and the latent")
    batch_norm: bool = Field(True, description="standardise every dimension of the vectors first")
    normalize_levels: bool = Field(False, description="L2-normalise what each level quantises, as in RK-Means")
    warmup_epochs: int = Field(10, ge=0, description="epochs without quantisation before codebooks are initialised")


class CollaborativeConfig(Section):
    """Not the paper's: `rq_vae` hears which items users consume together (LETTER, EAGER)."""

    weight: float = Field(0.0, ge=0, description="of the alignment to collaborative vectors; 0 leaves them out")
    width: int = Field(64, ge=1, le=65536, description="of the collaborative vectors")
    temperature: float = Field(0.1, gt=0, description="of the contrast between items of a batch")
    diversity: float = Field(0.0, ge=0, description="weight of the entropy of each level's mean soft assignment")


class GateConfig(Section):
    """Floors below which Semantic IDs are not published; null takes one away. Set to catch collapse, not to grade."""

    min_spread: float | None = Field(
        1e-3, ge=0, le=1, description="1 - ‖mean of the unit vectors‖²: below, all vectors all but coincide"
    )
    min_usage: float | None = Field(0.5, ge=0, le=1, description="share of a level's codes in use")
    min_entropy_ratio: float | None = Field(0.6, ge=0, le=1, description="entropy of a level's codes over ln K")
    max_collision_rate: float | None = Field(
        0.9, ge=0, le=1, description="share of items whose residual codes are not theirs alone"
    )
    min_distinct_rate: float | None = Field(
        0.15, ge=0, le=1, description="distinct tuples of residual codes over items"
    )


ROOM = 4  # Semantic IDs an item that are proposed, the digit not counted: vectors do not spread evenly


class DriftConfig(Section):
    """When an extension says that a re-index is due; null takes a limit away."""

    max_error_ratio: float | None = Field(
        1.25, gt=0, description="relative reconstruction error of added items over that of the fit"
    )
    max_beyond: float | None = Field(
        0.05, ge=0, le=1, description="share of added items farther than the fit's 99th percentile"
    )
    min_items: int = Field(100, ge=1, description="fewer items are not judged")


class IndexConfig(ComponentSection):
    """Item vectors → Semantic IDs (Stage 1)."""

    COMPONENTS: ClassVar[dict[str, Group]] = {"method": "quantizers"}

    method: str = Field(
        "rk_means",
        description="rk_means, residual_vq (what the paper's code calls VQ-VAE: no autoencoder), vq_vae, rq_vae, another "
        "registered quantizer, or module:Class (docs/extending.md)",
    )
    levels: int = Field(3, ge=1, le=63, description="residual levels, before the de-duplication digit")
    codes: int | tuple[int, ...] = Field(
        128, description="codes per level (K): one number for all levels, or a list with one number per level"
    )
    normalize: bool = Field(
        True, description="L2-normalise the input of every level, residuals included (rk_means, residual_vq)"
    )
    iterations: int = Field(50, ge=1, description="most Lloyd iterations per level")
    tolerance: float = Field(
        1e-5, ge=0, description="stop a level once the relative gain of an iteration falls below this"
    )
    sample_per_code: int | None = Field(
        1024,
        ge=64,
        description="vectors per code of the largest level that codebooks are fitted on where the catalogue has more, drawn by a "
        "hash of items and seed; null: all",
    )
    batch: int | None = Field(
        None, ge=1, description="vectors an iteration of rk_means, drawn anew each time (10⁷ items and more); null: all"
    )
    training: CodebookTraining = CodebookTraining()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()
    collisions: Literal["digit", "next_nearest", "sinkhorn"] = Field(
        "digit", description="what comes before the digit: nothing, or items that collide move within the last level"
    )
    dedup_codes: int = Field(128, ge=2, description="size of the de-duplication level: items that may share one prefix")
    category_column: str | None = Field(
        None, description="of the item table, for category purity; null takes `categories` or `category`, if there"
    )
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()
    seed: int = Field(0, description="of initial codebooks and samples")

    @field_validator("codes", mode="before")
    @classmethod
    def _whole_numbers(cls, codes: object) -> object:
        sizes = list(codes) if isinstance(codes, (list, tuple)) else [codes]
        if not sizes or any(not isinstance(size, int) or isinstance(size, bool) or size < 2 for size in sizes):
            raise ValueError("must be a whole number of at least 2, or a list with one such number per level")
        return codes

    @model_validator(mode="after")
    def _one_size_per_level(self) -> IndexConfig:
        if isinstance(self.codes, tuple) and len(self.codes) != self.levels:
            raise ValueError(f"codes lists {len(self.codes)} sizes for {self.levels} levels")
        if self.collaborative.weight and self.method != "rq_vae":
            raise ValueError(f"collaborative.weight needs method rq_vae, not {self.method}")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each residual level."""
        return self.codes if isinstance(self.codes, tuple) else (self.codes,) * self.levels

    @property
    def sample(self) -> int | None:
        """Vectors that codebooks are fitted on where there are more; None: all."""
        return None if self.sample_per_code is None else self.sample_per_code * max(self.sizes)

    @property
    def capacity(self) -> int:
        """Items that levels and digits can tell apart at most: of those that share residual codes, none has the digit 0."""
        return math.prod(self.sizes) * (self.dedup_codes - 1)

    def require_capacity(self, items: int) -> None:
        """Refuse a catalogue that has more items than there are Semantic IDs.

        Raises:
            ConfigError: it names levels and codes that would do.
        """
        if items > self.capacity:
            raise ConfigError(
                f"index.levels: {self.levels} levels of {max(self.sizes)} codes and {self.dedup_codes} digits tell at most "
                f"{self.capacity:,} items apart, but there are {items:,}; set {self.proposal(items)}"
            )

    def proposal(self, items: int) -> str | None:
        """Settings that leave `ROOM` tuples of residual codes per item, in words; None where these settings leave as many."""
        wanted, widest = ROOM * items, max(self.sizes)
        if math.prod(self.sizes) >= wanted:
            return None
        codes = 1 << math.ceil(math.log2(wanted) / self.levels)
        levels = math.ceil(math.log2(wanted) / math.log2(widest))
        return f"index.codes={codes}, or index.levels={levels} index.codes={widest}"
