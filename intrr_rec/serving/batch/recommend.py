"""`intrr recommend`: a bundle and histories → recommendations, shard by shard.

The output is an artefact of Parquet files in `parts/`, a row a recommendation: `user_id`, `rank` (from 1), `item_id` (of the type it has in the dataset), `score`,
`sid` (the Semantic ID). A shard is a fixed stretch of users, committed by renaming; ranks share the shards and never
speak to one another, so what is in memory is one shard and the bundle, and a killed job goes on.

Shape suffixes: U users of a shard, E events, B users of a batch, K recommendations a user.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.features import HistoryFeatures
from intrr_rec.distributed.malloc import keep_freed_memory
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io import shards as jobs
from intrr_rec.io.artefact import Manifest
from intrr_rec.io.launcher import Ranks
from intrr_rec.io.stores.mirror import origin
from intrr_rec.serving.batch.histories import Histories, Source
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.filters import Filters
from intrr_rec.serving.recommender import Recommender
from intrr_rec.serving.words import context_of

log = logging.getLogger(__name__)
KIND = "recommendations"
PARTS = "parts"


@dataclass(frozen=True)
class Options:
    """What to recommend.

    Attributes:
        k: items a user.
        beam: W; None is what the bundle was evaluated with.
        filters: for every user.
        batch: users decoded together.
        context: what is asked for of everybody, by names of features.
        shard_users: users a shard: the work that a killed job may lose, and what is held in memory.
    """

    k: int = 20
    beam: int | None = None
    filters: Filters = field(default_factory=Filters)
    batch: int = 256
    shard_users: int = 16_384
    context: Mapping[str, str] = field(default_factory=dict)


def recommend_all(bundle: Bundle, source: Source, out: Path, options: Options) -> Manifest | None:
    """Write what a bundle recommends to every user of a source; what is there already is not made again.

    Under a launcher that sets RANK and WORLD_SIZE the ranks share the shards; the first waits for all and publishes.

    Returns:
        The manifest of what is written; None on the other ranks.

    Raises:
        ArtefactError: `out` holds something else, or another process is at the same job.
        ConfigError: k, beam or a filter out of range; or another rank does not come.
        DataError: as the source.
    """
    ranks = Ranks.from_environment()
    rank, size = ranks.rank, ranks.size
    keep_freed_memory()
    recommender = Recommender(bundle)
    context_of(bundle.space, options.context, None)
    recommender.recommend([], options.k, options.beam, options.filters)  # out of range: known before hours of work
    job = asdict(options) | {"bundle": bundle.manifest.content_hash, "histories": source.identity}
    parents = {"bundle": bundle.manifest.content_hash, "histories": source.identity, "job": jobs.identity(job)}
    if _is_there(out, parents):
        log.info("%s: is there already, made from the same by the same settings", out)
        return None if rank else artefact.read(origin(out), KIND)
    started = time.monotonic()
    with jobs.staging(out, "recommend", job, rank) as staging:
        if rank:
            _make_shards(staging, recommender, source, options, rank, size)
            return None
        settings = {"k": options.k, "beam": options.beam or bundle.settings.evaluate.beam}
        with artefact.writing(out, KIND, settings) as draft:
            made = _make_shards(staging, recommender, source, options, rank, size)
            draft.counts |= {"users": made.users, "recommendations": 0}
            draft.parents |= parents
            (draft.path / PARTS).mkdir()
            for number in range(-(-made.users // options.shard_users)):
                shard = staging / jobs.shard_name(number)
                rows = jobs.awaited_rows(shard, _owner(number, source, options, size), size)
                jobs.link(shard, draft.path / PARTS / shard.name)
                draft.counts["recommendations"] += rows
    seconds = time.monotonic() - started
    log.info("%s: %d users; %d by this process in %.1f s", out, made.users, made.now, seconds)
    if made.unknown:
        log.warning("%s: left out %d events of items that the bundle does not know", out, made.unknown)
    return artefact.read(out, KIND)


def _is_there(out: Path, parents: Mapping[str, str]) -> bool:
    try:
        return artefact.read(origin(out), KIND).parents == parents
    except ArtefactError:
        return False


@dataclass
class Made:
    """Users of all shards; of them those made by this process now, and the events of unknown items among theirs."""

    users: int = 0
    now: int = 0
    unknown: int = 0


def _make_shards(
    staging: Path, recommender: Recommender, source: Source, options: Options, rank: int, size: int
) -> Made:
    """Make this rank's shards that are not there yet."""
    made, own = Made(), None
    if source.users is not None:
        shards = -(-source.users // options.shard_users)
        own = range(*(-(-shards * each // size) for each in (rank, rank + 1)))
    first = 0 if own is None else own.start
    with jobs.progress("recommend", "users", source.users) as advance:
        for number, histories in enumerate(source.shards(options.shard_users, staging, recommender.bundle, own), first):
            users, shard = len(histories.user_ids), staging / jobs.shard_name(number)
            made.users += users
            is_new = _owner(number, source, options, size) == rank and jobs.shard_rows(shard) is None
            if is_new:
                table, unknown = _shard(recommender, histories, options)
                jobs.write_shard(shard, table, compression="zstd")
                made.now, made.unknown = made.now + users, made.unknown + unknown
            advance(users, is_new)
    made.users = source.users or made.users
    return made


def _owner(number: int, source: Source, options: Options, size: int) -> int:
    """The rank that makes a shard. Where it is known how many there are, a rank makes neighbours, and reads no others."""
    if source.users is None:
        return number % size
    return number * size // -(-source.users // options.shard_users)


def _shard(recommender: Recommender, histories: Histories, options: Options) -> tuple[pa.Table, int]:
    """The recommendations of a shard's users, and how many of their events are of unknown items."""
    bundle = recommender.bundle
    is_known_E = histories.items_E >= 0
    known_E = histories.items_E[is_known_E]
    before_E1 = np.concatenate([[0], np.cumsum(is_known_E)])
    offsets = before_E1[histories.offsets]
    times_E = None if histories.times_E is None else histories.times_E[is_known_E]
    spans_U = [slice(*span) for span in pairwise(offsets)]
    described = _described(bundle.space, histories, offsets, is_known_E, options.context)
    parts = []
    filters = [
        replace(options.filters, seen=seen_N[seen_N >= 0].tolist()) if len(seen_N) else options.filters
        for seen_N in histories.seen or [np.empty(0, np.int64)] * len(spans_U)
    ]
    for first in range(0, len(spans_U), options.batch):
        spans_B, times = spans_U[first : first + options.batch], None
        if times_E is not None and histories.request_U is not None:
            asked_B = histories.request_U[first : first + options.batch].tolist()
            times = [[*times_E[span].tolist(), moment] for span, moment in zip(spans_B, asked_B, strict=True)]
        parts.append(
            recommender.rank(
                [known_E[span].tolist() for span in spans_B],
                options.k,
                options.beam,
                filters[first : first + options.batch],
                times,
                None if described is None else described[first : first + options.batch],
            )
        )
    items_UK, scores_UK = (torch.cat(each) for each in zip(*parts, strict=True))
    is_filled_UK = items_UK >= 0
    user_R, place_R = is_filled_UK.nonzero(as_tuple=True)
    item_R = items_UK[is_filled_UK]
    own_R = bundle.items.own_column(item_R.numpy())
    codes_RL = bundle.codes_IL[item_R].to(torch.int32)
    table = pa.table(
        {
            "user_id": histories.user_ids.take(pa.array(user_R.numpy())),
            "rank": pa.array((place_R + 1).to(torch.int32).numpy()),
            "item_id": own_R.cast(pa.int64()) if bundle.settings.item_ids == "integer" else own_R,
            "score": scores_UK[is_filled_UK].numpy(),
            "sid": pa.FixedSizeListArray.from_arrays(pa.array(codes_RL.numpy().reshape(-1)), codes_RL.shape[1]),
        }
    )
    return table, int((~is_known_E).sum())


def _described(
    space: Space,
    histories: Histories,
    offsets: NDArray[np.int64],
    is_known_E: NDArray[np.bool_],
    context: Mapping[str, str],
) -> list[HistoryFeatures] | None:
    """Numbers of the features of a shard's users, events of unknown items left out; what is asked of everybody counts before all."""
    features = histories.features
    if features is None:
        return None
    if context:
        asked_A = context_of(space, context, None)
        is_told_A = np.array([column.feature in context for column in space.asked])
        features = replace(features, asked_UA=np.where(is_told_A, asked_A, features.asked_UA))
    event_EF = features.event_EF[is_known_E]
    return [features.history(user, event_EF[first:last]) for user, (first, last) in enumerate(pairwise(offsets))]
