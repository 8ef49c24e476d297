"""Settings of the models of Stage 2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from intrr_rec.config.section import Section


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
    """HSTU (Zhai et al. 2024) with relative position bias, and bias by time where asked for."""

    layers: int = Field(4, ge=1)
    width: int = Field(128, ge=1, description="D: width of tokens, UID embeddings and codebooks")
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    time_bias: bool = Field(
        False,
        description="a bias by the time from the item looked at to the moment of the prediction; needs timestamps",
    )

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
    deep_feed_forward: bool = Field(
        False, description="one more hidden layer of that width in each feed-forward, as in the authors' code"
    )
    dropout: float = Field(0.15, ge=0, lt=1)


class TigerConfig(T5Config):
    """The T5 encoder-decoder of TIGER (Rajput et al. 2023)."""

    layers: int = Field(4, ge=1, description="of the encoder, and as many of the decoder")
    width: int = Field(128, ge=1, description="D: width of tokens and codebooks")
    dropout: float = Field(0.1, ge=0, lt=1)


class SasrecConfig(Section):
    """SASRec with the dense head, the baseline without Semantic IDs."""

    layers: int = Field(2, ge=1)
    width: int = Field(128, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


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
    negatives: int = Field(512, ge=1, description="items drawn uniformly a step and replica, shared by its targets")
    temperature: float = Field(0.07, gt=0, description="of the cosine between state and item")
    repeat_bias: bool = Field(True, description="one learned number added to the score of items already in the history")


class ModelConfig(Section):
    """IntRR (Stage 2). `content` and `uid_residual` go beyond the paper."""

    kind: Literal["intrr", "flattened", "tiger", "sasrec"] = Field(
        "intrr",
        description="flattened: the baseline of L tokens an item; reads window, backbone, hstu, t5, codebook_init, "
        "codebook_std, input_dropout. tiger: an encoder-decoder over such tokens; reads window, tiger, codebook_init, "
        "codebook_std. sasrec: the dense baseline; reads window, uid_std, sasrec, dense",
    )
    sasrec: SasrecConfig = SasrecConfig()
    tiger: TigerConfig = TigerConfig()
    window: int = Field(30, ge=2, description="N: items of history the backbone sees")
    backbone: Literal["hstu", "hstu_released", "t5"] = Field(
        "hstu", description="hstu_released: what the authors' code calls HSTU, set by the hstu section too"
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
    dense: DenseConfig = DenseConfig()
    input_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on the items of the history")

    @model_validator(mode="after")
    def _backbone_fits(self) -> ModelConfig:
        if self.backbone == "hstu_released" and self.hstu.time_bias:
            raise ValueError("backbone hstu_released has no bias by time; set model.hstu.time_bias=false")
        if self.kind == "flattened" and self.hstu.time_bias:
            raise ValueError("kind flattened has no bias by time; set model.hstu.time_bias=false")
        return self

    @property
    def width(self) -> int:
        """D, the width of the backbone in use."""
        return self.t5.width if self.backbone == "t5" else self.hstu.width

    @property
    def reads_times(self) -> bool:
        """Whether the model in use asks for the timestamps of events."""
        return self.kind == "intrr" and self.backbone == "hstu" and self.hstu.time_bias
