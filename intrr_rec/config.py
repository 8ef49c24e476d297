"""The settings tree: typed, validated, one YAML per recipe that names only what differs from these defaults.

The defaults are the paper's (section 4.1). A recipe file may name another as its `base`; `section.key=value` words on the
command line override both. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from intrr_rec.artefact import write_text
from intrr_rec.errors import ConfigError


class Section(BaseModel):
    """A group of settings: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PrepareConfig(Section):
    """Logs → dataset: column names, k-core filter, leave-one-out split."""

    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    k_core: int = Field(
        5, ge=1, description="users and items with fewer interactions are dropped, repeatedly; 1 keeps all"
    )
    min_sequence: int = Field(
        3, ge=3, description="interactions a user needs: one to learn from, one to validate, one to test"
    )


class CodebookTraining(Section):
    """How `residual_vq`, `vq_vae` and `rq_vae` learn their codebooks (van den Oord et al. 2017; Lee et al. 2022)."""

    epochs: int = Field(40, ge=1)
    batch_items: int = Field(1024, ge=2, description="vectors a step")
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
    width: int = Field(64, ge=1, description="of the collaborative vectors")
    temperature: float = Field(0.1, gt=0, description="of the contrast between items of a batch")
    diversity: float = Field(0.0, ge=0, description="weight of the entropy of each level's mean soft assignment")


class BalanceConfig(Section):
    """Not the paper's: `assignment: balanced`, a price on every code too many items want."""

    slack: float = Field(0.25, ge=0, description="a code may take this share more than an even share of the items")
    rounds: int = Field(5, ge=1, description="times prices are set and codewords moved to the mean of their items")
    temperature: float = Field(0.05, gt=0, description="of Sinkhorn's plan, in units of a level's mean distance")
    iterations: int = Field(100, ge=1, description="Sinkhorn iterations a round, at most")


class GateConfig(Section):
    """Floors below which Semantic IDs are not published; null takes one away. Set to catch collapse, not to grade."""

    min_spread: float | None = Field(
        1e-3, ge=0, le=1, description="1 - ‖mean of the unit vectors‖²: below, all vectors all but coincide"
    )
    min_usage: float | None = Field(0.5, ge=0, le=1, description="share of a level's codes in use")
    min_entropy_ratio: float | None = Field(0.6, ge=0, le=1, description="entropy of a level's codes over ln K")
    max_collision_rate: float | None = Field(
        0.9, ge=0, le=1, description="share of items whose residual path is not theirs alone"
    )
    min_distinct_rate: float | None = Field(0.15, ge=0, le=1, description="distinct residual paths over items")


class DriftConfig(Section):
    """When an extension says that a re-index is due; null takes a limit away."""

    max_error_ratio: float | None = Field(
        1.25, gt=0, description="relative reconstruction error of added items over that of the fit"
    )
    max_beyond: float | None = Field(
        0.05, ge=0, le=1, description="share of added items farther than the fit's 99th percentile"
    )
    min_items: int = Field(100, ge=1, description="fewer items are not judged")


class IndexConfig(Section):
    """Item vectors → Semantic IDs (Stage 1)."""

    method: Literal["rk_means", "residual_vq", "vq_vae", "rq_vae"] = Field(
        "rk_means", description="residual_vq is what the paper's code calls VQ-VAE: no autoencoder"
    )
    levels: int = Field(3, ge=1, description="residual levels, before the de-duplication digit")
    codes: int | tuple[int, ...] = Field(128, description="codes a level (K): one number, or a list of one a level")
    normalize: bool = Field(
        True, description="L2-normalise the input of every level, residuals included (rk_means, residual_vq)"
    )
    iterations: int = Field(50, ge=1, description="Lloyd iterations a level, at most")
    tolerance: float = Field(
        1e-5, ge=0, description="stop a level once the relative gain of an iteration falls below this"
    )
    batch: int | None = Field(
        None, ge=1, description="vectors an iteration of rk_means, drawn anew each time (10⁷ items and more); null: all"
    )
    training: CodebookTraining = CodebookTraining()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()
    assignment: Literal["nearest", "balanced"] = "nearest"
    balance: BalanceConfig = BalanceConfig()
    collisions: Literal["digit", "next_nearest", "sinkhorn"] = Field(
        "digit", description="what comes before the digit: nothing, or items that collide move within the last level"
    )
    dedup_codes: int = Field(128, ge=2, description="size of the de-duplication level: items that may share one prefix")
    category_column: str | None = Field(
        None, description="of the item table, for category purity; null takes `categories` or `category`, if there"
    )
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()
    seed: int = 0

    @field_validator("codes", mode="before")
    @classmethod
    def _whole_numbers(cls, codes: object) -> object:
        sizes = list(codes) if isinstance(codes, (list, tuple)) else [codes]
        if not sizes or any(not isinstance(size, int) or isinstance(size, bool) or size < 2 for size in sizes):
            raise ValueError("must be a whole number of at least 2, or a list of one such number a level")
        return codes

    @model_validator(mode="after")
    def _one_size_a_level(self) -> IndexConfig:
        if isinstance(self.codes, tuple) and len(self.codes) != self.levels:
            raise ValueError(f"codes lists {len(self.codes)} sizes for {self.levels} levels")
        if self.collaborative.weight and self.method != "rq_vae":
            raise ValueError(f"collaborative.weight needs method rq_vae, not {self.method}")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each residual level."""
        return self.codes if isinstance(self.codes, tuple) else (self.codes,) * self.levels


class RanConfig(Section):
    """The Recursive-Assignment Network (IntRR section 3.2)."""

    hidden: int = Field(256, ge=1, description="width of the hidden layer of each level's MLP")
    context: Literal["previous", "cumulative"] = Field(
        "previous", description="z_<l: the previous level's z, or the sum of all"
    )
    assignment: Literal["soft", "straight_through"] = Field(
        "soft", description="z_l: mixture of codewords (Eq. 6), or the likeliest codeword with the mixture's gradient"
    )
    similarity: Literal["dot", "scaled"] = Field("dot", description="h V^T (Eq. 5), or the same divided by sqrt(D)")
    dropout: float = Field(0.0, ge=0, lt=1)


class HstuConfig(Section):
    """HSTU (Zhai et al. 2024) with relative position bias."""

    layers: int = Field(4, ge=1)
    width: int = Field(128, ge=1, description="D: width of tokens, UID embeddings and codebooks")
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _divisible(self) -> HstuConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class T5Config(Section):
    """The causal T5 stack."""

    layers: int = Field(4, ge=1)
    width: int = Field(256, ge=1, description="D: width of tokens, UID embeddings and codebooks")
    heads: int = Field(6, ge=1)
    head_width: int = Field(64, ge=1)
    feed_forward: int = Field(1024, ge=1)
    dropout: float = Field(0.15, ge=0, lt=1)


class SasrecConfig(Section):
    """SASRec with sampled softmax, the dense baseline."""

    layers: int = Field(2, ge=1)
    width: int = Field(128, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    negatives: int = Field(4096, ge=1, description="uniformly drawn negatives a step, shared by its targets")


class ModelConfig(Section):
    """IntRR (Stage 2). `content` and `uid_residual` go beyond the paper."""

    kind: Literal["intrr", "sasrec"] = Field(
        "intrr", description="sasrec: the dense baseline; reads window, uid_std, sasrec"
    )
    sasrec: SasrecConfig = SasrecConfig()
    window: int = Field(30, ge=2, description="N: items of history the backbone sees")
    backbone: Literal["hstu", "t5"] = Field("hstu", description="which of the two sections below is used")
    hstu: HstuConfig = HstuConfig()
    t5: T5Config = T5Config()
    ran: RanConfig = RanConfig()
    shared_ran: bool = Field(True, description="one RAN and one set of codebooks for items and users, or one each")
    item_side: Literal["redistribution", "lookup"] = Field(
        "redistribution",
        description="E_i: redistributed by the UID, or the sum of the codewords of the item's Semantic ID",
    )
    user_side: Literal["teacher_forcing", "soft"] = Field(
        "teacher_forcing",
        description="what a level sees in training: the target's codewords (Eq. 10), or its own mixtures",
    )
    align_weight: float = Field(0.1, ge=0, description="lambda of IntRR Eq. 11")
    align_average: Literal["items", "positions"] = Field("items", description="what L_aln (Eq. 8) is averaged over")
    codebook_init: Literal["random", "stage1"] = Field(
        "random", description="codewords drawn at random, or Stage 1's centroids on their principal axes"
    )
    codebook_std: float = Field(
        0.02, gt=0, description="initial scale of codewords, before the factor sqrt(D) of every lookup"
    )
    uid_std: float = Field(0.02, gt=0, description="initial scale of UID rows, before the same factor")
    uid_width: int | None = Field(
        None, ge=1, description="width of UID rows where they are mapped to D; null: D, unmapped"
    )
    uid_residual: bool = Field(False, description="not the paper's: E_i = sum of z_l + e_uid")
    content: bool = Field(False, description="not the paper's: a linear map of the item's vector is added to e_uid")
    input_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on the items of the history")

    @property
    def width(self) -> int:
        """D, the width of the backbone in use."""
        return self.hstu.width if self.backbone == "hstu" else self.t5.width


class TrainConfig(Section):
    """The optimisation loop (IntRR section 4.1)."""

    epochs: int = Field(60, ge=1)
    max_minutes: float | None = Field(
        None, gt=0, description="stop after this many minutes, validating and saving first"
    )
    batch_users: int = Field(512, ge=1, description="windows (users) a step, over all ranks")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    uid_sharding: Literal["data_parallel", "row_wise"] = Field(
        "data_parallel",
        description="data_parallel trains the UID table with Adam; row_wise shards it, row-wise Adagrad",
    )
    uid_learning_rate: float = Field(0.02, gt=0, description="row-wise Adagrad's, used when the UID table is sharded")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    patience: int = Field(10, ge=1, description="validations without a better Recall@10 before stopping")
    seed: int = 0


class EvaluateConfig(Section):
    """Ranking by trie-constrained beam search inside the RAN."""

    beam: int = Field(50, ge=1, description="W: beams kept at each level")
    normalize: Literal["trie", "global"] = Field(
        "trie", description="softmax over the valid children of a prefix, or over all K codes"
    )
    batch_users: int = Field(256, ge=1, description="users a decode step; a small batch stays in the processor's cache")


class Recipe(Section):
    """All settings of the line, one section a verb."""

    prepare: PrepareConfig = PrepareConfig()
    index: IndexConfig = IndexConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def load_recipe(path: Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Defaults ← base files ← `path` ← overrides (`section.key=value`, value in YAML).

    Raises:
        ConfigError: unreadable file, unknown key, or a value of the wrong type or out of range.
    """
    settings = _read_yaml(path, seen=()) if path else {}
    source = str(path) if path else "command line"
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"command line: '{word}' is not an override; write section.key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"command line: value of '{key}' is not valid YAML: {value!r}") from None
        _set(settings, key.split("."), parsed, word)
    return parse(settings, source)


def parse(settings: dict[str, Any], source: str) -> Recipe:
    """Validate a tree of settings; `source` is named in errors."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, source) for item in error.errors())) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the fully resolved settings as YAML, atomically."""
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path}: its 'base' leads back to itself; remove one of the two")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); mend the path given to --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: must hold 'section: {{key: value}}' entries")
    base = settings.pop("base", None)
    if base is None:
        return settings
    return _merge(_read_yaml(path.parent / str(base), (*seen, path)), settings)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(settings: dict[str, Any], keys: list[str], value: Any, word: str) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"command line: '{word}' descends into '{key}', which is a value, not a section")
    settings[keys[-1]] = value


def _explain(item: Any, source: str) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'{_nearest(location)}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{source}: '{key}': {message} (given: {item['input']!r})"


def _nearest(location: list[str]) -> str:
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    close = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.0)
    path = ".".join([*location[:-1], close[0]]) if close else ""
    return f"; did you mean '{path}'?" if path else ""
