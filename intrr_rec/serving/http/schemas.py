"""What the server is asked and what it answers: the types behind its OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS
from intrr_rec.config.logs.time_units import seconds_fault
from intrr_rec.config.serving import ServeConfig
from intrr_rec.serving.words import Features

# An item's own id is what the catalogue calls it; a whole number means the same as its digits.
ItemId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | Annotated[StrictStr, Field(max_length=MAX_ID_CHARACTERS)]
Text = Annotated[StrictStr, Field(max_length=MAX_ID_CHARACTERS)]
Whole = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
FeatureName = Annotated[StrictStr, Field(max_length=256)]
FeatureValue = StrictBool | Whole | StrictFloat | Text | None
Column = Annotated[StrictStr, Field(max_length=256)]
FilterValue = StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=MAX_ID_CHARACTERS)]


NO_TIME = "no time in seconds since 1970; milliseconds and finer units are refused"


def _seconds(moment: int) -> int:
    if seconds_fault(moment):  # it names the number, and no refusal repeats what a client sent
        raise ValueError(NO_TIME)
    return moment


def _all_seconds(moments: list[int]) -> list[int]:
    """The check of the least and the latest holds for all: a long history is not walked in Python."""
    for moment in (min(moments), max(moments)) if moments else ():
        if seconds_fault(moment):
            raise ValueError(f"entry {moments.index(moment)}, counted from 0: {NO_TIME}")
    return moments


Seconds = Annotated[Whole, AfterValidator(_seconds)]


class Asked(BaseModel):
    """Part of a request: no unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Range(Asked):
    """Bounds of a column, compared by its type; a day is its first moment."""

    at_least: FilterValue | None = Field(None, description="the least that passes")
    below: FilterValue | None = Field(None, description="the first that is too large")


class Group(Asked):
    """Conditions that an item must all meet."""

    where: dict[Column, list[FilterValue]] = Field(default_factory=dict, description="as in `filters`")
    without: dict[Column, list[FilterValue]] = Field(default_factory=dict, description="as in `filters`")
    ranges: dict[Column, Range] = Field(default_factory=dict, description="as in `filters`")


class Filters(Asked):
    """What may be recommended; a filtered answer still has `k` items while `k` allowed ones exist."""

    deny: list[ItemId] = Field(default_factory=list, description="items never to recommend")
    allow: list[ItemId] | None = Field(None, description="the only items to recommend; null allows all")
    exclude_seen: bool | None = Field(
        None, description="do not recommend what the history holds; null: as the bundle was evaluated"
    )
    where: dict[Column, list[FilterValue]] = Field(
        default_factory=dict,
        description="column of the item table → values, one of which an item must have; compared by the column's type",
    )
    newer_than: Seconds | None = Field(None, description="seconds since 1970: only items that nobody had before")
    without: dict[Column, list[FilterValue]] = Field(
        default_factory=dict, description="column of the item table → values, none of which an item may have"
    )
    ranges: dict[Column, Range] = Field(
        default_factory=dict, description="column of numbers, dates or timestamps → bounds"
    )
    any_of: list[Group] = Field(
        default_factory=list, description="groups of conditions, one of which an item must meet"
    )

    @property
    def looks_at_items(self) -> bool:
        """Whether columns of the item table decide."""
        return bool(self.where or self.without or self.ranges or self.any_of) or self.newer_than is not None

    def groups(self) -> Iterator[Filters | Group]:
        """All conditions on columns: its own, and the groups'."""
        yield self
        yield from self.any_of


class HistoryEvent(BaseModel):
    """An item of the history with what is known of the event: every other key is the name of a feature of events."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FeatureValue] = Field(init=False)

    item: ItemId
    time: Seconds | None = Field(None, description="seconds since 1970; in place of `timestamps`")

    @property
    def features(self) -> dict[str, Any]:
        """Names and values of its features."""
        return self.__pydantic_extra__ or {}


def _kind(entry: object) -> str:
    return "described" if isinstance(entry, dict | HistoryEvent) else "plain"


def _kinds(history: object) -> str:
    """Which of the two lists a history is: one of plain ids alone is not walked in Python."""
    return "mixed" if isinstance(history, list) and not _DESCRIBED.isdisjoint(map(type, history)) else "bare"


_DESCRIBED: frozenset[type] = frozenset((dict, HistoryEvent))


Event = Annotated[Annotated[ItemId, Tag("plain")] | Annotated[HistoryEvent, Tag("described")], Discriminator(_kind)]
History = Annotated[Annotated[list[ItemId], Tag("bare")] | Annotated[list[Event], Tag("mixed")], Discriminator(_kinds)]


class RecommendRequest(Asked):
    """A person's history, and how many items to recommend after it."""

    history: History = Field(
        description="item ids of the raw log, or objects of an item and its features, the oldest event first; an empty list gets the popular items"
    )
    user: dict[FeatureName, FeatureValue | list[FeatureValue]] = Field(
        default_factory=dict, description="feature of users → value, or values"
    )
    context: dict[FeatureName, FeatureValue] = Field(
        default_factory=dict,
        description="feature → value for the event to predict, such as the action that is asked for",
    )
    timestamps: Annotated[list[Whole], AfterValidator(_all_seconds)] | None = Field(
        None,
        description="seconds since 1970 of each event; needed by models that read times, used by rankings of returns",
    )
    time: Seconds | None = Field(None, description="moment of the request, for such models; null: now")
    k: int = Field(10, ge=1, strict=True, description="items to recommend")
    beam: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="beam width, at least k; null: the bundle's own"
    )
    filters: Filters = Filters()
    trace: bool = Field(False, description="also tell how the beam narrowed")

    @model_validator(mode="after")
    def _consistent(self) -> RecommendRequest:
        if self.timestamps is not None and len(self.timestamps) != len(self.history):
            raise ValueError("timestamps: must be as many as the history's items")
        moments = self._own_times
        if moments and self.timestamps is not None:
            raise ValueError("timestamps: the history has times already; give one of the two")
        if moments and len(moments) != len(self.history):
            raise ValueError("history: some events have a time and some have none; give all or none")
        if self.beam is not None and self.beam < self.k:
            raise ValueError("beam: must be at least k")
        return self

    @cached_property
    def _described(self) -> list[HistoryEvent]:
        """Events that say more than their item."""
        if _kinds(self.history) == "bare":
            return []
        return [event for event in self.history if isinstance(event, HistoryEvent)]

    @property
    def _own_times(self) -> list[int]:
        return [event.time for event in self._described if event.time is not None]

    @property
    def items(self) -> list[int | str]:
        """Own ids of the history."""
        if not self._described:
            return cast("list[int | str]", self.history)
        return [event.item if isinstance(event, HistoryEvent) else event for event in self.history]

    @property
    def times(self) -> list[int] | None:
        """Seconds of each event, where they are given either way."""
        return self.timestamps if self.timestamps is not None else self._own_times or None

    @property
    def names_features(self) -> bool:
        """Whether it says anything of features."""
        return bool(self.user or self.context or any(event.features for event in self._described))

    @property
    def words(self) -> Features:
        """What it says of features."""
        if not self._described:
            return Features((), self.user, self.context)
        events = [event.features if isinstance(event, HistoryEvent) else {} for event in self.history]
        return Features(events, self.user, self.context)

    def beyond(self, limits: ServeConfig) -> str | None:
        """Which limit of the server this request passes, in words; None where it keeps them all."""
        where: list[object] = []
        for group in self.filters.groups():
            where += [word for each in (group.where, group.without) for name in each for word in (name, *each[name])]
            where += [group.ranges, *group.ranges]
        lists = {"filters.deny": self.filters.deny, "filters.allow": self.filters.allow or (), "filters.where": where}
        sizes = {name: (len(items), limits.max_filter_items, "items") for name, items in lists.items()}
        sizes["history"] = (len(self.history), limits.max_history, "items; send the newest")
        sizes["k"] = (self.k, limits.max_k, "")
        sizes["beam"] = (self.beam or 1, limits.max_beam, "")
        over = (f"{name}: at most {most} {what}".strip() for name, (size, most, what) in sizes.items() if size > most)
        return next(over, None)


class Item(BaseModel):
    """An item of the catalogue."""

    item: str = Field(description="its own id, as text")
    title: str
    sid: list[int] = Field(description="its Semantic ID, code by code")


class Ranked(Item):
    """A recommended item."""

    score: float = Field(
        description="what it was ranked by: log P(item | history), with the dense score where the bundle ranks by both; "
        "of a popular item, the log of its share of all events"
    )


class Prefix(BaseModel):
    """One prefix kept in the beam at a level."""

    codes: list[int]
    log_p: float = Field(description="log-probability of the prefix")


class RecommendResponse(BaseModel):
    """Ranked items, best first."""

    items: list[Ranked]
    source: Literal["model", "popularity"] = Field(description="popularity: no item of the history was known")
    unknown_items: int = Field(description="items of the history that the catalogue has not; they were ignored")
    bundle: str = Field(description="content hash of the bundle that answered")
    beam: list[list[Prefix]] | None = Field(None, description="with `trace`: the beam of each level, best first")


class Neighbour(Item):
    """An item near another."""

    similarity: float = Field(
        description="cosine of the two representations; of item_knn, the weighted sum of the terms of model.neighbours"
    )


class ItemDetail(Item):
    """An item and its surroundings."""

    redistribution: list[list[float]] | None = Field(
        None, description="probability of every code at each level (IntRR Eq. 6); null for models without"
    )
    neighbours: list[Neighbour] = Field(description="nearest first")


class SearchResponse(BaseModel):
    """Items whose title holds every word of the query."""

    items: list[Item]


class FeatureDetail(BaseModel):
    """A feature that a request may name."""

    name: str
    of: Literal["event", "user"] = Field(description="event: in the objects of `history`; user: in `user`")
    context: bool = Field(description="whether `context` may name it too")
    kind: str = Field(description="categorical, multi_categorical, numeric, boolean or timestamp_parts")
    values: list[str] = Field(description="the most frequent values of a vocabulary; any other value counts as unseen")


class BundleDetail(BaseModel):
    """What a client has to know of the bundle being served before it asks."""

    bundle: str = Field(description="content hash")
    items: int = Field(description="items of the catalogue")
    withdrawn: int = Field(description="of them, those that nobody gets (`intrr serve --withdrawn`)")
    reads_times: bool = Field(description="whether a request with a history must have `timestamps`")
    beam: int = Field(description="beam width of requests that name none")
    exclude_seen: bool = Field(description="`filters.exclude_seen` of requests that do not say")
    columns: list[str] = Field(description="columns that `filters.where` may name")
    features: list[FeatureDetail] = Field(description="what the model reads of events and users")


class Health(BaseModel):
    """That the server lives, and what it serves."""

    status: Literal["ok", "draining"]
    bundle: str


class Reloaded(BaseModel):
    """What a reload led to."""

    bundle: str = Field(description="content hash of the bundle being served from now on")
    changed: bool


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str
