"""Settings of the models of Stage 2."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from intrr_rec.config.components import ComponentSection, Group
from intrr_rec.config.section import Section


class BackboneConfig(Section):
    """What every backbone has among its settings; a subclass adds its own."""

    width: int = Field(128, ge=1, le=65536, description="D: width of tokens, UID embeddings and codebooks")

    @property
    def reads_times(self) -> bool:
        """Whether the backbone, as it is set, asks for the timestamps of events."""
        return False


class KindConfig(Section):
    """Settings of a kind of model, and what a recipe must know of it before the model exists.

    Attributes:
        uses_backbone: it reads `model.backbone`.
        passes_times: it hands the timestamps of events to its backbone, where that asks for them.
        exportable: `intrr export` can write a bundle of it.
        ranks_by_sid: it ranks by beam search in the RAN, so that few items' embeddings are needed at a time.
        managed_rows: its UID table may be of managed rows (`model.zch`).
        dense_head: `model.dense` puts a dense head beside its own decoder.
        draws_negatives: it is always trained with sampled negatives (`model.dense.negatives`).
        learns: it is trained; one that is not ranks by `model.neighbours` alone.
        reads_features: it reads features of events, items and users, where the dataset has some.
    """

    uses_backbone: ClassVar[bool] = False
    passes_times: ClassVar[bool] = False
    exportable: ClassVar[bool] = False
    ranks_by_sid: ClassVar[bool] = False
    managed_rows: ClassVar[bool] = False
    dense_head: ClassVar[bool] = False
    draws_negatives: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    reads_features: ClassVar[bool] = False


class ItemKnnConfig(KindConfig):
    """Neighbours of the last items, without training; its settings are those of `model.neighbours`."""

    exportable = True
    learns = False


class IntrrConfig(KindConfig):
    """IntRR; its settings are those of `model` itself."""

    uses_backbone = True
    passes_times = True
    exportable = True
    ranks_by_sid = True
    managed_rows = True
    dense_head = True
    reads_features = True


class FlattenedConfig(KindConfig):
    """The baseline of L tokens per item; its settings are those of `model` itself."""

    uses_backbone = True


class RanConfig(Section):
    """The Recursive-Assignment Network (IntRR section 3.2)."""

    hidden: int = Field(256, ge=1, le=1048576, description="width of the hidden layer of each level's MLP")
    context: Literal["previous", "cumulative"] = Field(
        "previous", description="z_<l: the previous level's z, or the sum of all"
    )
    assignment: Literal["soft", "straight_through"] = Field(
        "soft", description="z_l: mixture of codewords (Eq. 6), or the likeliest codeword with the mixture's gradient"
    )
    similarity: Literal["dot", "scaled"] = Field("dot", description="h V^T (Eq. 5), or the same divided by sqrt(D)")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations that a training step sets to 0")


class HstuConfig(BackboneConfig):
    """HSTU (Zhai et al. 2024) with relative position bias, and bias by time where asked for."""

    layers: int = Field(4, ge=1, le=512, description="blocks on one another")
    width: int = Field(128, ge=1, le=65536, description="D: width of tokens, UID embeddings and codebooks")
    heads: int = Field(4, ge=1, le=1024, description="of attention")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of activations that a training step sets to 0")
    time_bias: bool = Field(
        False,
        description="a bias by the time from the item looked at to the moment of the prediction; needs timestamps",
    )

    @property
    def reads_times(self) -> bool:
        """With the bias by time."""
        return self.time_bias

    @model_validator(mode="after")
    def _divisible(self) -> HstuConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class T5Config(BackboneConfig):
    """The causal T5 stack."""

    layers: int = Field(4, ge=1, le=512, description="blocks on one another")
    width: int = Field(256, ge=1, le=65536, description="D: width of tokens, UID embeddings and codebooks")
    heads: int = Field(6, ge=1, le=1024, description="of attention")
    head_width: int = Field(64, ge=1, le=65536, description="of keys, queries and values of a head")
    feed_forward: int = Field(1024, ge=1, le=1048576, description="width of the hidden layer of a block")
    deep_feed_forward: bool = Field(
        False, description="one more hidden layer of that width in each feed-forward, as in the authors' code"
    )
    dropout: float = Field(0.15, ge=0, lt=1, description="share of activations that a training step sets to 0")


class TigerConfig(KindConfig, T5Config):
    """The T5 encoder-decoder of TIGER (Rajput et al. 2023)."""

    layers: int = Field(4, ge=1, le=512, description="of the encoder, and as many of the decoder")
    width: int = Field(128, ge=1, le=65536, description="D: width of tokens and codebooks")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations that a training step sets to 0")


class SasrecConfig(KindConfig):
    """SASRec with the dense head, the baseline without Semantic IDs."""

    layers: int = Field(2, ge=1, le=512, description="blocks on one another")
    width: int = Field(128, ge=1, le=65536, description="D: width of tokens and item embeddings")
    heads: int = Field(2, ge=1, le=1024, description="of attention")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of activations that a training step sets to 0")

    draws_negatives: ClassVar[bool] = True


class ZchConfig(Section):
    """Managed collision (ZCH): a UID table of a size of its own, whose rows go to the items that come (docs/sharding.md)."""

    rows: int | None = Field(
        None, ge=32, multiple_of=32, description="of the UID table, in sets of 32; null: a row an item, unmanaged"
    )
    eviction: Literal["lru", "lfu"] = Field(
        "lru",
        description="whose row goes to a new item of its set: the least recently or the least frequently seen one",
    )
    unseen_steps: int = Field(1, ge=1, description="steps since an item was last seen before its row may be taken")


class DenseConfig(Section):
    """Not the paper's: a sampled softmax over cosines of h_u and E_i beside the RAN's losses, and a ranking by it."""

    weight: float = Field(0.0, ge=0, description="of the dense loss beside L_rec; 0 leaves it out")
    negatives: int = Field(
        512, ge=1, le=16777216, description="items drawn uniformly a step and replica, shared by its targets"
    )
    temperature: float = Field(0.07, gt=0, description="of the cosine between state and item")
    repeat_bias: bool = Field(True, description="one learned number added to the score of items already in the history")


class NeighboursConfig(Section):
    """Neighbours of items (extension beyond the paper): transitions P of the training part, P in two steps, and content."""

    kept: int = Field(100, ge=1, description="M: neighbours kept per item")
    last_items: int = Field(4, ge=1, description="items at the end of a history whose neighbours are looked up")
    decay: float = Field(
        0.6, gt=0, le=1, description="weight of an item of the history, to the power of its age (0, 1, …)"
    )
    content: float = Field(1.0, ge=0, description="weight of the cosine of item vectors; 0 leaves content out")
    whiten: bool = Field(
        False,
        description="cosines of vectors whose principal axes (at most 128) are centred and divided by the square root of "
        "their deviation, so that what all items share counts less",
    )
    transitions: float = Field(0.5, ge=0, description="weight of P; 0 leaves one step out")
    two_steps: float = Field(0.5, ge=0, description="weight of P P; 0 leaves two steps out")
    gaps: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 0.5, 0.33), min_length=1, description="what a transition over 1, 2, … events counts"
    )
    backward: float = Field(
        0.7, ge=0, description="what a transition from the later item to the earlier one counts, times its gap's"
    )
    damping: float = Field(0.3, ge=0, description="power of the target's in-degree that P is divided by")

    @model_validator(mode="after")
    def _something_counts(self) -> NeighboursConfig:
        if not (self.content or self.transitions or self.two_steps):
            raise ValueError("content, transitions and two_steps are all 0; give one of them a weight")
        return self


# Those without settings of their own have no section.
KINDS_WITHOUT_SECTION: dict[str, KindConfig] = {
    "intrr": IntrrConfig(),
    "flattened": FlattenedConfig(),
    "item_knn": ItemKnnConfig(),
}


class ModelConfig(ComponentSection):
    """IntRR (Stage 2). `content` and `uid_residual` go beyond the paper."""

    COMPONENTS: ClassVar[dict[str, Group]] = {"kind": "models", "backbone": "backbones"}
    BASES: ClassVar[dict[str, type[Section]]] = {"kind": KindConfig, "backbone": BackboneConfig}

    kind: str = Field(
        "intrr",
        description="intrr, another registered kind of model, or module:Class (docs/extending.md). flattened: the baseline of L tokens an item; reads window, backbone, hstu, t5, codebook_init, "
        "codebook_std, input_dropout. tiger: an encoder-decoder over such tokens; reads window, tiger, codebook_init, "
        "codebook_std. sasrec: the dense baseline; reads window, uid_std, sasrec, dense. item_knn: neighbours of the last items, without "
        "training; reads neighbours",
    )
    sasrec: SasrecConfig = SasrecConfig()
    tiger: TigerConfig = TigerConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    window: int = Field(30, ge=2, le=65536, description="N: items of history the backbone sees")
    backbone: str = Field(
        "hstu", description="hstu, t5, another registered backbone, or module:Class (docs/extending.md)"
    )
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
    zch: ZchConfig = ZchConfig()
    uid_residual: bool = Field(False, description="not the paper's: E_i = sum of z_l + e_uid")
    content: bool = Field(False, description="not the paper's: a linear map of the item's vector is added to e_uid")
    features: tuple[str, ...] | None = Field(
        None,
        description="features of the dataset that the model reads, by name; null: all; []: none (docs/features.md)",
    )
    unasked: float = Field(
        0.1,
        ge=0,
        le=1,
        description="of features that are asked for: share of the histories of a step that are trained without, so that nothing need be asked",
    )
    dense: DenseConfig = DenseConfig()
    input_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on the items of the history")

    @model_validator(mode="after")
    def _backbone_fits(self) -> ModelConfig:
        kind = self.kind_settings
        if kind.uses_backbone and not kind.passes_times and self.backbone_settings.reads_times:
            raise ValueError(f"kind {self.kind} has no bias by time; set model.{self.backbone}.time_bias=false")
        return self

    @property
    def kind_settings(self) -> KindConfig:
        """The settings of the kind of model in use, and what it states of itself."""
        found = KINDS_WITHOUT_SECTION.get(self.kind) or self.of("kind")
        assert isinstance(found, KindConfig)
        return found

    @property
    def backbone_settings(self) -> BackboneConfig:
        """The settings of the backbone in use."""
        found = self.of("backbone")
        assert isinstance(found, BackboneConfig)
        return found

    @property
    def width(self) -> int:
        """D, the width of the backbone in use."""
        return self.backbone_settings.width

    @property
    def reads_times(self) -> bool:
        """Whether the model in use asks for the timestamps of events."""
        return self.kind_settings.passes_times and self.backbone_settings.reads_times
