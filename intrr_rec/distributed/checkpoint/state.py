"""The state of the training loop that is saved with a checkpoint, checked as it is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.io.formats.records import as_record

_Count = Annotated[int, Field(ge=0, le=1 << 53)]
_FIX = "put back a whole checkpoint, or train again"


class LoopState(BaseModel):
    """What is known of `state.json`; a loop may keep more.

    Attributes:
        epoch, epoch_step, step: epochs done, steps done of the next one, steps in all.
        partial: what the steps of an unfinished epoch came to.
        lines: of the figures, that are final.
        best, best_epoch, stale: best validation so far, when it was, validations since.
        seconds: of training.
        ranking: fitted weights.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    epoch: _Count = 0
    epoch_step: _Count = 0
    step: _Count = 0
    partial: dict[str, Any] | None = None
    lines: _Count = 0
    best: float = 0.0
    best_epoch: _Count = 0
    stale: _Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    ranking: list[float] | None = None


def checked(state: dict[str, Any], where: str) -> dict[str, Any]:
    """The state as it was read.

    Raises:
        ArtefactError: a value of another type, or out of range.
    """
    as_record(state, LoopState, where, _FIX)
    return state
