"""Settings of what surrounds a model: the optimisation loop, the ranking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from intrr_rec.config.logs.time_units import said, seconds_of
from intrr_rec.config.section import Section, as_name
from intrr_rec.config.sharding import ShardingConfig

Name = Annotated[str, BeforeValidator(as_name)]
Moment = Annotated[int, BeforeValidator(seconds_of)]
TargetWeight = Annotated[float, Field(ge=0)]


class LoaderConfig(Section):
    """How training reads the dataset."""

    workers: int = Field(1, ge=1, description="threads that build batches, and threads that read row groups")
    pool_events: int = Field(
        1 << 26,
        ge=1,
        description="events shuffled together; a dataset with more is streamed, about as many at a time (16 bytes each, up to "
        "three pools in memory)",
    )


class TrainConfig(Section):
    """The optimisation loop (IntRR section 4.1)."""

    epochs: int = Field(60, ge=1, description="passes over the training windows, at most; see patience")
    max_minutes: float | None = Field(
        None, gt=0, description="stop after this many minutes, also within an epoch, validating and saving first"
    )
    batch_users: int = Field(512, ge=1, le=16777216, description="windows (users) a step, over all ranks")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="in place of batch_users: events a step over all ranks, at least four windows of them; a step takes as many windows as "
        "hold no more, and of a streamed dataset about as many; null: batch_users",
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="of AdamW, after the warm-up; sharded tables have train.sharding.learning_rate"
    )
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="of the learning rate after the warm-up; linear: down to 0 at the last step of `epochs`"
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises linearly from 0")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    accumulate: int = Field(1, ge=1, description="micro-batches per step: the same step with less memory")
    gradient_clip: float | None = Field(
        None, gt=0, description="largest norm of a step's gradient over all parameters and tables; null: any"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="bf16: matrix products of training in bfloat16 (autocast); weights and updates stay fp32; auto: bf16 "
        "where the processor computes it natively, else fp32",
    )
    calibration_users: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of users whose last training event is not learned from, where evaluate.rank_by is "
        "sid_dense_and_neighbours: its weights are fitted on their validation items, before which an event was not learned "
        "from, as in a test; 0: fitted on all users, and nothing is held out",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of an average of the weights, which is then what is validated, kept and ranked with",
    )
    target_weights: dict[Name, dict[Name, TargetWeight]] = Field(
        {},
        description="of targets in L_rec: feature of events → value → weight, such as {action: {view: 0.2}}; a value that is not "
        "named counts 1, one of weight 0 is not learnt",
    )
    learn_all: bool = Field(
        False,
        description="learn to predict all events, not only the targets of prepare.targets, by which the model is measured all the same: "
        "for a feature that is asked for",
    )
    since: Moment | None = Field(
        None,
        description="learn to predict events from this moment on, ISO 8601 (UTC where no zone is given) or seconds since 1970; those "
        "before are read in histories; null: all",
    )
    until: Moment | None = Field(
        None,
        description="events from this moment on are not part of the training part: neither learnt nor read nor counted in training; "
        "null: as `prepare.split` says",
    )
    sharding: ShardingConfig = ShardingConfig()
    loader: LoaderConfig = LoaderConfig()
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints within an epoch; null: at validations only"
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints to keep, beside the best one")
    patience: int = Field(10, ge=1, description="validations without a better Recall@10 before stopping")
    seed: int = Field(0, description="of initial weights, the order of windows, dropout and negatives")

    @model_validator(mode="after")
    def _since_is_before_until(self) -> TrainConfig:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"since: no moment lies from {said(self.since)} on and before until, {said(self.until)}")
        return self


class EvaluateConfig(Section):
    """Ranking by trie-constrained beam search inside the RAN."""

    beam: int = Field(50, ge=1, le=65536, description="W: beams kept at each level")
    validation_beam: int | None = Field(
        None, ge=10, description="beams kept while validating to choose a checkpoint (Recall@10); null: `beam`"
    )
    normalize: Literal["trie", "global"] = Field(
        "trie", description="softmax over the valid children of a prefix, or over all K codes"
    )
    rank_by: Literal["sid", "sid_and_dense", "sid_dense_and_neighbours"] = Field(
        "sid",
        description="log P of an item's Semantic ID, or, for a model trained with `model.dense`, the dense score plus "
        "`sid_weight` times it, over the items of the beam; sid_dense_and_neighbours: also the terms of "
        "`model.neighbours`, whose best items join the pool, all with weights fitted at validation",
    )
    pool: Literal["beam", "beam_and_dense"] = Field(
        "beam",
        description="what sid_and_dense ranks: the items of the beam, or also the `beam` items of the best dense scores, "
        "found by scoring the whole catalogue",
    )
    exclude_seen: bool | None = Field(
        False,
        description="leave the items of a user's whole history out of the ranking; null: as the log says, which is when fewer "
        "than one training event in 200 goes back to an item that its user had before",
    )
    sid_weight: float = Field(0.5, ge=0, description="of log P beside the dense score")
    users: int | None = Field(
        None,
        ge=1,
        description="measure by so many users of a split, drawn without replacement, in validations too; null: by all",
    )
    users_seed: int = Field(0, ge=0, description="of the draw of `users`: equal seeds draw equal users, in every run")
    batch_users: int = Field(
        256, ge=1, le=16777216, description="users a decode step; a small batch stays in the processor's cache"
    )

    @property
    def ranks_returns(self) -> bool:
        """Whether items of the history are ranked by how often and how long ago they occur (`decoding/repeats.py`)."""
        return self.rank_by == "sid_dense_and_neighbours" and not self.exclude_seen
