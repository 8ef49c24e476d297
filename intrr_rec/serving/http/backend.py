"""A bundle ready to answer: recommending, looking items up, and the test it must pass before it is served.

Shape suffixes: I items, D width, L levels.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from intrr_rec.data.loading.features import HistoryFeatures
from intrr_rec.errors import ArtefactError, ConfigError, UserError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.serving.batch.filter_options import read_ids
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.conditions import Conditions
from intrr_rec.serving.filters import Filters
from intrr_rec.serving.http import schemas
from intrr_rec.serving.http.schemas import (
    BundleDetail,
    FeatureDetail,
    Group,
    Item,
    ItemDetail,
    Neighbour,
    Prefix,
    Ranked,
    RecommendRequest,
    RecommendResponse,
)
from intrr_rec.serving.recommender import Recommender
from intrr_rec.serving.words import FeatureFault, Features, numbers_of

NEIGHBOURS = 8
PROBE_ITEMS = 5
MOST_VALUES = 200  # of a vocabulary that a client is told
LOOKED_AT = 1 << 16  # items whose Semantic IDs begin most like an item's: among them are its neighbours


@dataclass(frozen=True)
class _Known:
    """A request in dense ids: its known events, their times and last the request's (None: it named none), how many are unknown, and
    features."""

    history: list[int]
    times: list[int] | None
    unknown: int
    filters: Filters
    features: HistoryFeatures | None


class Backend:
    """Answers from one bundle.

    Args:
        bundle: opened.
        withdrawn: dense ids of items that nobody gets.
        cache_bytes: as of `Recommender`.
    """

    def __init__(self, bundle: Bundle, withdrawn: Sequence[int] = (), cache_bytes: int = 0) -> None:
        self.bundle = bundle
        self.bundle_hash = bundle.manifest.content_hash
        self.withdrawn = len(withdrawn)
        self._recommender = Recommender(bundle, withdrawn, cache_bytes)

    @classmethod
    def load(cls, path: Path, device: torch.device, withdrawn: Path | None = None, cache_bytes: int = 0) -> Backend:
        """Open a bundle and test it; `withdrawn` as in `without`.

        Raises:
            ArtefactError: it cannot be read, or fails the test.
            DataError: `withdrawn` cannot be read.
        """
        backend = cls(Bundle.load(path, device), cache_bytes=cache_bytes)
        try:
            backend.test()
        except UserError:
            raise
        except Exception as error:  # whatever is wrong with a bundle, it is not to be served
            not_the_input(error)
            raise ArtefactError(
                f"{path}: its self-test failed ({type(error).__name__}: {error}); export it again"
            ) from error
        return backend if withdrawn is None else backend.without(withdrawn)

    def without(self, withdrawn: Path) -> Backend:
        """One of the same bundle that recommends none of the items whose ids stand in a file, one a line; kept histories are shared.

        Raises:
            DataError: it cannot be read.
        """
        ids, other = read_ids(self.bundle.items, withdrawn), copy.copy(self)
        other.withdrawn, other._recommender = len(ids), self._recommender.without(ids)
        return other

    def test(self) -> None:
        """Recommend to nobody, to one who had a popular item and to one who had several, and look at the answers.

        Raises:
            ArtefactError: too few items, one twice, a score that is no number, or a Semantic ID that leads elsewhere.
        """
        bundle = self.bundle
        popular = bundle.items.own(bundle.items.by_popularity_I[:PROBE_ITEMS].tolist())
        k = min(10, bundle.settings.evaluate.beam, bundle.n_items)
        probes = [RecommendRequest(history=popular[:n], timestamps=[0] * n, k=k) for n in (0, 1, len(popular))]
        for answer in self.recommend(probes):
            complaint = None
            if len({item.item for item in answer.items}) < k:
                complaint = f"recommends {len(answer.items)} different items where {k} were asked for"
            elif not all(math.isfinite(item.score) for item in answer.items):
                complaint = "gives scores that are no numbers"
            elif any(self._at(item.sid) != item.item for item in answer.items):
                complaint = "names Semantic IDs that lead to other items"
            if complaint:
                raise ArtefactError(f"{bundle.path}: self-test: the bundle {complaint}; export it again")

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse]:
        """The answers to a batch; requests of the same k and beam are decoded together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault((request.k, self.beam(request)), []).append(place)
        answers: dict[int, RecommendResponse] = {}
        for (k, beam), places in groups.items():
            answers.update(zip(places, self._together([requests[place] for place in places], k, beam), strict=True))
        return [answers[place] for place in range(len(requests))]

    def beam(self, request: RecommendRequest) -> int:
        """The beam width of a request; where it names none, the one the bundle was evaluated with, or k if that is more."""
        return request.beam or max(self.bundle.settings.evaluate.beam, request.k)

    def lacks(self, request: RecommendRequest) -> str | None:
        """Why no item can pass a request's filters, in words; None where some can, or there are none."""
        try:
            self._recommender.require_some(self._asked(request))
        except ConfigError as error:
            # What was sent is not repeated: only what there is.
            head, _, there = str(error).partition("; ")
            return f"filters: no item can pass; {there or head}"
        return None

    def misnamed(self, request: RecommendRequest) -> str | None:
        """What is wrong with the features that a request names, in words; None where nothing is."""
        try:
            numbers_of(self.bundle.space, request.words, len(request.history), None)
        except FeatureFault as fault:
            return fault.told
        return None

    @property
    def reads_times(self) -> bool:
        """Whether a request with a history must have timestamps."""
        return self.bundle.reads_times

    def describe(self) -> BundleDetail:
        """What a client has to know before it asks."""
        items = self.bundle.items
        return BundleDetail(
            bundle=self.bundle_hash,
            items=len(items),
            withdrawn=self.withdrawn,
            reads_times=self.reads_times,
            beam=self.bundle.settings.evaluate.beam,
            exclude_seen=bool(self.bundle.settings.evaluate.exclude_seen),
            columns=list(items.columns),
            features=self._features(),
        )

    def item(self, own: str) -> ItemDetail | None:
        """An item and its surroundings; None where there is no such item."""
        [item] = self.bundle.items.dense([own])
        if item is None:
            return None
        similarity, nearest = self._nearest(item)
        shown = self._items(nearest)
        neighbours = [Neighbour(**each.model_dump(), similarity=s) for each, s in zip(shown, similarity, strict=True)]
        [itself] = self._items([item])
        return ItemDetail(
            **itself.model_dump(), redistribution=self._recommender.redistribution(item) or None, neighbours=neighbours
        )

    def search(self, query: str, limit: int) -> list[Item]:
        """Items with every word of the query in their title, the most popular first; before them the one of that id."""
        words = query.lower().split()
        if not words:
            return []
        found = self.bundle.items.search.find(words, limit)
        [same] = self.bundle.items.dense([query.strip()])
        if same is not None:
            found = [same, *(item for item in found if item != same)][:limit]
        return self._items(found)

    def _together(self, requests: Sequence[RecommendRequest], k: int, beam: int) -> list[RecommendResponse]:
        known = [self._translate(request) for request in requests]
        found = self._recommender.recommend(
            [each.history for each in known],
            k,
            beam,
            [each.filters for each in known],
            [each.times for each in known],
            [each.features for each in known if each.features is not None] or None,
        )
        return [
            RecommendResponse(
                items=[
                    Ranked(**item.model_dump(), score=score)
                    for item, score in zip(self._items(best.items), best.scores, strict=True)
                ],
                source="model" if each.history else "popularity",
                unknown_items=each.unknown,
                bundle=self.bundle_hash,
                beam=self._trace(each, beam) if request.trace and each.history else None,
            )
            for request, each, best in zip(requests, known, found, strict=True)
        ]

    def _translate(self, request: RecommendRequest) -> _Known:
        given = request.times
        if given is None and (self.reads_times or not request.history):
            given = [0] * len(request.history)  # of another bundle that was served when it was asked
        item_E = self.bundle.items.places([*map(str, request.items)])
        is_known_E = item_E >= 0
        places = is_known_E.nonzero()[0].tolist()
        if given is not None and len(places) < len(item_E):
            given = [given[place] for place in places]
        now = int(time.time()) if request.time is None else request.time
        times = None if given is None else [*given, now]
        return _Known(
            history=item_E[is_known_E].tolist(),
            times=times,
            unknown=len(item_E) - len(places),
            filters=self._filters(request),
            features=self._numbers(request.words, places, times if self.reads_times else None),
        )

    def _numbers(self, words: Features, places: Sequence[int], times: Sequence[int] | None) -> HistoryFeatures | None:
        """The features of the events at these places, in numbers; None of a bundle that reads none."""
        space = self.bundle.space
        if not space.columns:
            return None
        events = [words.events[place] for place in places] if words.events else ()
        try:
            return numbers_of(space, Features(events, words.user, words.context), len(places), times)
        except FeatureFault:  # another bundle was served when it was asked
            return numbers_of(space, Features(), len(places), times)

    def _features(self) -> list[FeatureDetail]:
        found = {}
        for column in self.bundle.space.columns:
            if not column.clock:
                found[column.feature] = FeatureDetail(
                    name=column.feature,
                    of="event" if column.side == "event" else "user",
                    context=column.asked,
                    kind=column.kind,
                    values=list((column.values or ())[:MOST_VALUES]),
                )
        return list(found.values())

    def _trace(self, known: _Known, beam: int) -> list[list[Prefix]]:
        levels = self._recommender.trace(
            known.history,
            beam,
            known.filters,
            known.times,
            known.features,
        )
        return [[Prefix(codes=list(prefix.codes), log_p=prefix.score) for prefix in level] for level in levels]

    def _filters(self, request: RecommendRequest) -> Filters:
        filters = self._asked(request)
        if filters.looks_at_items and self.lacks(request) is not None:  # another bundle was served when it was asked
            return Filters(allow=())
        return filters

    def _asked(self, request: RecommendRequest) -> Filters:
        chosen = request.filters
        allow = None if chosen.allow is None else self._known(chosen.allow)
        own = _conditions(chosen)
        return Filters(
            chosen.exclude_seen,
            self._known(chosen.deny),
            allow,
            own.where,
            chosen.newer_than,
            without=own.without,
            ranges=own.ranges,
            any_of=[[_conditions(group) for group in chosen.any_of]] if chosen.any_of else (),
        )

    def _known(self, own: Iterable[int | str]) -> list[int]:
        return [item for item in self.bundle.items.dense(map(str, own)) if item is not None]

    def _items(self, items: Sequence[int]) -> list[Item]:
        table, sids = self.bundle.items, self.bundle.codes_IL[list(items)].tolist()
        named = zip(table.own(items), table.titles(items), sids, strict=True)
        return [Item(item=own, title=title, sid=sid) for own, title, sid in named]

    def _at(self, codes: Sequence[int]) -> str | None:
        trie = self.bundle.trie
        leaf = trie.node_of_prefix(codes)
        return None if leaf is None else self.bundle.items.own([int(trie.leaf_items[leaf])])[0]

    def _nearest(self, item: int) -> tuple[list[float], list[int]]:
        """Items by the cosine of their representations, the item itself left out, among the `LOOKED_AT` that lie around it in the
        trie: those share the longest prefixes. Of a model that was not trained, those of its table of neighbours."""
        if self.bundle.trained is None:
            assert self.bundle.neighbours is not None
            return self.bundle.neighbours.nearest(item, NEIGHBOURS)
        rows, leaf_items = self.bundle.trained.rows, self.bundle.trie.leaf_items
        first = int(self.bundle.leaves.place_I[item]) - LOOKED_AT // 2
        first = max(0, min(first, len(leaf_items) - LOOKED_AT))
        near_R = leaf_items[first : first + LOOKED_AT].long().sort().values
        own_1D = rows.take(torch.tensor([item], device=self.bundle.device))
        similarity_R = F.cosine_similarity(own_1D, rows.take(near_R)).masked_fill(near_R == item, -torch.inf)
        best_W, place_W = similarity_R.topk(min(NEIGHBOURS, len(near_R) - 1))
        return best_W.tolist(), near_R[place_W].tolist()


def _conditions(group: schemas.Filters | Group) -> Conditions:
    """Conditions of a request, with their values as text."""
    where, without = (
        {column: [str(value) for value in values] for column, values in each.items()}
        for each in (group.where, group.without)
    )
    bounds = {column: (_text(bound.at_least), _text(bound.below)) for column, bound in group.ranges.items()}
    return Conditions(where, without, bounds)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
