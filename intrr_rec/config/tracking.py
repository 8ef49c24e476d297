"""Settings of the tracker that gets a run's figures beside its own files."""

from __future__ import annotations

from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from intrr_rec.config.components import ComponentSection, Group
from intrr_rec.config.section import Section


class MlflowConfig(Section):
    """MLflow."""

    uri: str | None = Field(
        None,
        description="tracking server or store, such as http://HOST:5000 or sqlite:////FOLDER/mlflow.db; null: "
        "MLFLOW_TRACKING_URI, or mlflow.db beside the run folder",
    )
    experiment: str = Field(
        "intrr_rec", min_length=1, description="experiment that the run joins; made if there is none"
    )

    @field_validator("uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and urlsplit(uri).password is not None:
            raise ValueError(
                "holds a password, which the run folder would keep; put it into MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or a database's whole address into MLFLOW_TRACKING_URI"
            )
        return uri


class WandbConfig(Section):
    """Weights & Biases; its key stands in WANDB_API_KEY."""

    project: str = Field("intrr_rec", min_length=1, description="project that the run joins")
    entity: str | None = Field(None, description="user or team; null: that of the key")
    mode: Literal["online", "offline"] | None = Field(
        None, description="offline: into `wandb` of the run folder, for `wandb sync`; null: WANDB_MODE, or online"
    )


class TrackConfig(ComponentSection):
    """The tracker that gets the figures of a training run; may differ when a run is resumed."""

    COMPONENTS: ClassVar[dict[str, Group]] = {"tracker": "trackers"}

    tracker: str = Field(
        "none", description="none, mlflow, wandb, another registered tracker, or module:Class (docs/extending.md)"
    )
    name: str | None = Field(None, description="of the run; null: that of the run folder")
    tags: dict[str, str] = Field({}, description="tag → value, such as {team: search}")
    mlflow: MlflowConfig = MlflowConfig()
    wandb: WandbConfig = WandbConfig()
