"""Settings of `intrr prepare`: how the logs' columns are called, which events stay, what is held out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from intrr_rec.config.logs.features import FeaturesConfig
from intrr_rec.config.logs.targets import Condition, read_conditions, require_targets
from intrr_rec.config.logs.time_units import seconds_of
from intrr_rec.config.section import Section, as_name

Weight = Annotated[int, Field(ge=0)]
# No catalogue names a thing so; a longer "id" is a text in the wrong column, or a quote that was never closed. Every door of the
# line takes ids up to this length: what is prepared can be served.
MAX_ID_CHARACTERS = 1_024
Encoding = Literal["utf-8", "latin-1"]
Separator = Annotated[str, Field(min_length=1, max_length=4)]


Name = Annotated[str, BeforeValidator(as_name)]


class PrepareConfig(Section):
    """Logs → dataset: columns, filters in the order they are applied, split."""

    user_column: Name = Field("user_id", description="column of the logs: who")
    item_column: Name = Field("item_id", description="column of the logs, and of the item table: what")
    items_column: Name | None = Field(None, description="item ids in the item table; null: called as in the logs")
    time_column: Name | None = Field(
        "timestamp", description="null: the logs have no time, and the order of their rows is the order of events"
    )
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = Field(
        "auto",
        description="what numbers in time_column count since 1970; auto: told by their size, and a mixture is refused. Dates, "
        "ISO 8601 and Arrow timestamps need none. The dataset stores seconds",
    )
    id_type: Literal["auto", "integer", "string"] = Field(
        "auto",
        description="what ids are; auto: typed files decide, and in text tables ids are integers if all of all files are; string: "
        "text whatever they look like",
    )
    separator: Separator | None = Field(
        None, description="between the fields of text tables, such as ';', '|' or '::'; null: told by their first line"
    )
    column_names: tuple[Name, ...] | None = Field(
        None, description="columns, in order, of text tables without a header line; null: the first line names them"
    )
    items_separator: Separator | None = Field(
        None, description="separator of the item table; null: told by its first line"
    )
    items_column_names: tuple[Name, ...] | None = Field(
        None, description="columns, in order, of an item table without a header line; null: its first line names them"
    )
    event_column: Name | None = Field(
        None, description="column of event types (click, purchase, ...); null: there is none"
    )
    event_weights: dict[Name, Weight] | None = Field(
        None, description="event type → whole-number weight; events of types not named are dropped"
    )
    min_weight: int = Field(
        0, ge=0, description="total weight that a user's events with an item need to stay; 0: no such filter"
    )
    deduplicate: Literal["none", "event", "pair"] = Field(
        "none",
        description="event: of events equal in user, item and full time the first stays; pair: a user's first event with an item",
    )
    max_sequence: int | None = Field(
        None, ge=3, description="users with more interactions are dropped, since they are hardly people; null: no bound"
    )
    k_core: int = Field(
        5, ge=1, description="users and items with fewer interactions are dropped, repeatedly; 1 keeps all"
    )
    min_sequence: int = Field(
        3, ge=3, description="interactions a user needs: one to learn from, one to validate, one to test"
    )
    text_template: str | None = Field(
        None, description="such as 'Title: {title}; Brand: {brand}': makes the item table's column `text` of its others"
    )
    keep_rows: bool = Field(
        False, description="keep the rows as read in the dataset, so that `intrr prepare --append` can add to them"
    )
    split: Literal["leave_one_out", "global_time"] = Field(
        "leave_one_out",
        description="leave_one_out: a user's last event is for testing, the last but one for validation; global_time: two "
        "moments, the same for all users, divide training, validation and test",
    )
    split_at: tuple[int, int] | None = Field(
        None,
        description="of global_time: the moments from which on events are for validation and for testing, ISO 8601 (UTC where "
        "no zone is given) or seconds since 1970; null: those before which 80 and 90 % of the interactions lie",
    )

    users_column: Name | None = Field(None, description="user ids in the user table; null: called as in the logs")
    users_separator: Separator | None = Field(
        None, description="separator of the user table; null: told by its first line"
    )
    users_column_names: tuple[Name, ...] | None = Field(
        None, description="columns, in order, of a user table without a header line; null: its first line names them"
    )
    encoding: Encoding = Field("utf-8", description="how the text tables are written; of JSON lines always utf-8")
    features: FeaturesConfig = Field(
        FeaturesConfig(), description="what else is read of logs, item table and user table (docs/features.md)"
    )
    targets: dict[str, Condition] = Field(
        {},
        description="feature of events → values, or a range {at_least: , below: }: events that meet all conditions are predicted and "
        "measured by, the others are read only; left out: all are targets",
    )

    @model_serializer(mode="wrap")
    def _without_defaults_of_features(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A dataset without features has the manifest it had before there were any."""
        written: dict[str, Any] = handler(self)
        for name in ("features", "targets", "users_column", "users_separator", "users_column_names", "encoding"):
            if name in written and getattr(self, name) == type(self).model_fields[name].default:
                del written[name]
        return written

    @field_validator("targets", mode="before")
    @classmethod
    def _conditions(cls, given: object) -> object:
        return read_conditions(given, "targets") if isinstance(given, dict) else given

    @field_validator("split_at", mode="before")
    @classmethod
    def _moments(cls, given: object) -> object:
        return [seconds_of(moment) for moment in given] if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _consistent(self) -> PrepareConfig:
        if self.event_column is not None and self.event_weights is None:
            raise ValueError(
                "event_column and event_weights go together: name the types that count, as in "
                "'prepare.event_weights={view: 1, buy: 4}' or '{4: 1, 5: 1}' of ratings, or leave event_column out: then every "
                "row counts"
            )
        if self.event_column is None and self.event_weights is not None:
            raise ValueError(
                "event_column and event_weights go together: name the column of the types by prepare.event_column"
            )
        require_targets(self.targets, self.features)
        if self.min_weight and self.event_weights is None:
            raise ValueError("min_weight needs event_weights")
        if self.max_sequence is not None and self.max_sequence < max(self.min_sequence, self.k_core):
            raise ValueError("max_sequence is below min_sequence or k_core: no user could stay")
        if self.split == "global_time" and self.time_column is None:
            raise ValueError("split=global_time needs times, but time_column is null")
        if self.split_at is not None:
            if self.split != "global_time":
                raise ValueError("split_at needs split=global_time; leave it out, or null")
            if self.split_at[0] >= self.split_at[1]:
                raise ValueError("split_at: validation must begin before the test does")
        return self
