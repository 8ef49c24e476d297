"""Synthetic catalogue, vectors and logs of any size, for demos, tests and scaling runs.

Everything is arithmetic over a counter-based hash: item i and user u are functions of (seed, i) and (seed, u), so no table
as long as the catalogue is ever held, and the rows do not depend on how they are cut into files. Three signals:

* semantics: a tree department > category > style > series; a vector is the sum of the node vectors on the item's path
  plus its brand, its colour and noise; titles are made of the same words. Sessions stay near in the tree;
* collaboration: every item has four hidden successors in styles that the tree does not relate, and users have home styles
  among which they drift. Nothing of this shows in vectors or texts;
* popularity: Zipf-like over styles and over the items of a style.

Logs may have features, and the next item may depend on each of them (`SIGNALS`): the style that follows a category is then another for
each value. Where it does not, the values are drawn all the same and tell nothing. Users may return to items they had (`returns.py`).

Shape suffixes: B rows of a block (items or users), T steps of a user's history, D width of a vector, S styles, H home
styles.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.data.synthetic.draws import (
    ATTEMPTS,
    VALUES,
    Floats,
    Ints,
    Keys,
    counter,
    directions,
    hashed,
    joined,
    starts_session,
    uniform,
    word,
    zipf,
)
from intrr_rec.data.synthetic.parts import progress_bar, write_parts
from intrr_rec.data.synthetic.returns import RETURNS, Returns
from intrr_rec.data.synthetic.words import ACTIONS, BRANDS, COLOURS, DEVICES, PLANS, SEASONS, SERIES, SIGNALS, TREE
from intrr_rec.errors import ConfigError, instead
from intrr_rec.io import artefact

log = logging.getLogger(__name__)

_CATEGORIES = 6
_LEAVES = len(TREE) * _CATEGORIES  # (department, category) pairs
_MAX_STYLES = _LEAVES * 8
_SERIES_SIZE = 8  # items a series, about: the size of an item's close neighbourhood at any catalogue size

_SCALES = {
    "department": 1.0,
    "category": 0.8,
    "style": 0.6,
    "series": 0.4,
    "brand": 0.25,
    "colour": 0.25,
    "noise": 0.35,
}

_SUCCESSORS = 4
_HOMES = 3
_ACTION, _DEVICE = 6, 7  # counters of a step: what is drawn for it
_PLAN = 16  # counter of a user
# what happens inside a session; the rest of the probability is a draw from the popularity of the whole catalogue
_P_SUCCESSOR, _P_SERIES, _P_CATEGORY = 0.40, 0.30, 0.20
_P_SIGNALLED = 0.8  # of the steps inside a session, where a feature carries a signal: they follow it
_STYLE_SHIFT, _ITEM_SHIFT = 60.0, 4.0  # of the Zipf laws: larger is flatter at the head

_EPOCH = 1_600_000_000
_DAY = 86_400
_MAX_ITEMS = 1 << 31  # keeps the id permutation's products inside int64
_BLOCK = 1 << 15  # rows computed at a time, one Parquet row group


def generate_logs(
    out: Path,
    *,
    n_users: int,
    n_items: int,
    seed: int,
    events_per_user: int = 12,
    dimension: int = 64,
    shard: int = 1 << 20,
    features: bool = False,
    signals: Sequence[str] = (),
    returns: str | None = None,
) -> None:
    """Write the artefact "logs": `interactions/`, `items/` and `vectors/`, each a folder of `part-*.parquet`.

    * interactions: user_id int64, item_id int64, timestamp int64 (seconds, rising within a user); grouped by user.
    * items: item_id int64, title, categories ("A > B > C"), brand, text.
    * vectors: item_id int64, embedding fixed_size_list<float16>[dimension], L2-normalised.

    With `features` also: `action` and `device` of interactions, `season` of items, and `users/`: user_id, plan.

    Ids are integers: at 10⁸ items strings would be the larger part of the interactions. Equal arguments give equal bytes;
    `shard` changes how rows are cut into files, not the rows.

    Args:
        out: folder to write; an artefact of kind "logs" there is replaced.
        n_users: users, each with at least min(5, events_per_user) events.
        n_items: items in the catalogue, all of them written.
        seed: of everything random.
        events_per_user: mean length of a history; lengths are uniform around it.
        dimension: width D of a vector.
        shard: users or items a file.
        features: also write features.
        signals: features that the next item depends on, of `SIGNALS`: the action of the last event, the device of the next one, the
            season of the last item, the plan of the user; any of them writes the features.
        returns: how users return to items they had, of `RETURNS`; None: hardly ever.

    Raises:
        ConfigError: an argument out of range.
        ArtefactError: `out` holds something that is not a "logs" artefact.
    """
    _require_some(users=n_users, shard=shard)
    features = features or bool(signals)
    sizes = {"n_items": n_items, "seed": seed, "events_per_user": events_per_user, "dimension": dimension}
    world = World(**sizes, features=features, signals=signals, returns=returns)
    settings: dict[str, Any] = {"users": n_users, "items": n_items, "seed": seed, "events_per_user": events_per_user}
    settings |= {"signals": list(world.signals)} if features else {}
    settings |= {"returns": returns} if returns else {}
    user_block = min(_BLOCK, max(1, 16 * _BLOCK // world.longest))
    with (
        artefact.writing(out, "logs", settings | {"dimension": dimension}) as draft,
        progress_bar((1 + features) * n_users + 2 * n_items) as advance,
    ):
        rows = write_parts(draft.path / "interactions", n_users, shard, user_block, world.interactions, advance)
        write_parts(draft.path / "items", n_items, shard, _BLOCK, world.items, advance)
        write_parts(draft.path / "vectors", n_items, shard, _BLOCK, world.vectors, advance)
        if features:
            write_parts(draft.path / "users", n_users, shard, _BLOCK, world.users, advance)
        draft.counts.update(users=n_users, items=n_items, interactions=rows)
    log.info("%s: %d users, %d items, %d interactions", out, n_users, n_items, rows)


def _require_some(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"generate: {name} is {value}; give 1 or more")


class World:
    """Items and users as functions of (seed, id); holds only the tree's tables, at most 384 styles.

    An item's place is `position = rank · styles + style`: its style in the tree and its popularity rank inside it. Ids are
    an affine permutation of positions, so neither the tree's order nor popularity runs along them. A style's items are dealt
    to its series in turn, so that every series has popular and rare ones.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        *,
        n_items: int,
        seed: int,
        events_per_user: int = 12,
        dimension: int = 64,
        features: bool = False,
        signals: Sequence[str] = (),
        returns: str | None = None,
    ) -> None:
        if not 1 <= n_items <= _MAX_ITEMS:
            raise ConfigError(f"generate: items is {n_items}; give 1 to {_MAX_ITEMS}")
        _require_some(events_per_user=events_per_user, dimension=dimension)
        if unknown := next((name for name in signals if name not in SIGNALS), None):
            raise ConfigError(f"generate: no signal '{unknown}'{instead(unknown, SIGNALS)}")
        if returns is not None and returns not in RETURNS:
            raise ConfigError(f"generate: no returns '{returns}'{instead(returns, RETURNS)}")
        self.n_items, self.dimension = n_items, dimension
        self.features, self.signals = features, tuple(name for name in SIGNALS if name in signals)
        self.returns, self.shortest = returns, min(5, events_per_user)
        self.longest = 2 * events_per_user - self.shortest
        self.n_styles = max(1, min(_MAX_STYLES, n_items // _SERIES_SIZE))
        self.n_series = max(1, n_items // self.n_styles // _SERIES_SIZE)

        root = np.array([seed % (1 << 64)], dtype=np.uint64)
        before, after = (
            ("users", "popularity", "links", "successors", "tints", "shift"),
            ("seasons", "paths", "returns"),
        )
        self._keys = {name: hashed(root, number) for number, name in enumerate((*before, *_SCALES, *after))}
        self._style_by_rank_S: Ints = np.argsort(
            hashed(self._keys["popularity"], np.arange(self.n_styles)), kind="stable"
        )

        self._stride = max(1, round(n_items * (math.sqrt(5) - 1) / 2))
        while math.gcd(self._stride, n_items) != 1:
            self._stride += 1
        self._unstride = pow(self._stride, -1, n_items)
        self._offset = int(hashed(self._keys["shift"], 0)[0] % np.uint64(n_items))

        styles = np.arange(self.n_styles)
        departments, categories = styles % len(TREE), styles % _LEAVES
        self._style_vectors_SD = (
            self._nodes("department", departments) + self._nodes("category", categories) + self._nodes("style", styles)
        )
        self._brand_vectors = self._nodes("brand", np.arange(len(BRANDS)))
        self._colour_vectors = self._nodes("colour", np.arange(len(COLOURS)))
        paths = [
            (department, TREE[department][0][leaf // len(TREE)], TREE[department][1][style // _LEAVES])
            for style, leaf, department in zip(styles, categories, np.array(list(TREE))[departments], strict=True)
        ]
        self._names = pa.array([f"{look} {kind}" for _, kind, look in paths])
        self._paths = pa.array([" > ".join(path) for path in paths])

    def style(self, ids_B: Ints) -> Ints:
        """Style [B] of each item; styles equal modulo 48 share a category, modulo 8 a department."""
        return self._position(ids_B) % self.n_styles

    def items(self, ids_B: Ints) -> pa.Table:
        """Item table of the given ids: item_id, title, categories, brand, text."""
        position_B = self._position(ids_B)
        style_B, series_B, brand_B, colour_B = self._attributes(position_B)
        number = pc.cast(pa.array(position_B // self.n_styles + 1), pa.string())
        names, paths = (words.take(pa.array(style_B)) for words in (self._names, self._paths))
        brands = pa.array(BRANDS).take(pa.array(brand_B))
        numbered = joined(names, " No. ", number)
        titles = joined(pa.array(COLOURS).take(pa.array(colour_B)), " ", numbered)
        series_name_B = hashed(self._series_keys(style_B, series_B), 1) % np.uint64(len(SERIES))
        series = pa.array(SERIES).take(pa.array(series_name_B))
        texts = joined(titles, " by ", brands, ", from the ", series, " series. ", paths)
        columns = {"item_id": pa.array(ids_B), "title": titles, "categories": paths, "brand": brands, "text": texts}
        if self.features:
            columns["season"] = pa.array(SEASONS).take(pa.array(self._season(position_B)))
        return pa.table(columns)

    def users(self, users_B: Ints) -> pa.Table:
        """User table of the given ids: user_id, plan."""
        plan_B = self._plan(hashed(self._keys["users"], users_B))
        return pa.table({"user_id": pa.array(users_B), "plan": pa.array(PLANS).take(pa.array(plan_B))})

    def vectors(self, ids_B: Ints) -> pa.Table:
        """Vector table of the given ids: item_id, embedding [D] float16 of unit length."""
        position_B = self._position(ids_B)
        style_B, series_B, brand_B, colour_B = self._attributes(position_B)
        x_BD = self._style_vectors_SD[style_B]
        x_BD += directions(hashed(self._series_keys(style_B, series_B), 2), self.dimension, _SCALES["series"])
        x_BD += self._brand_vectors[brand_B]
        x_BD += self._colour_vectors[colour_B]
        x_BD += self._nodes("noise", position_B)
        x_BD /= np.sqrt(np.einsum("bd,bd->b", x_BD, x_BD))[:, None]
        flat = pa.array(x_BD.astype(np.float16).reshape(-1))
        embedding = pa.FixedSizeListArray.from_arrays(flat, self.dimension)
        return pa.table({"item_id": pa.array(ids_B), "embedding": embedding})

    def interactions(self, users_B: Ints) -> pa.Table:
        """Events of the given users, grouped by user and rising in time: user_id, item_id, timestamp, and features if there are any."""
        key_B = hashed(self._keys["users"], users_B)
        spread = self.longest - self.shortest + 1
        length_B = self.shortest + (uniform(hashed(key_B, 0)) * spread).astype(np.int64)
        by_length = np.argsort(-length_B, kind="stable")  # so that the users still active at a step are a prefix
        step_T = np.arange(self.longest)
        new_BT = starts_session(key_B[:, None], step_T)
        wait_BT = -np.log1p(-uniform(hashed(key_B[:, None], counter(step_T, 0, 1))))
        gap_BT = np.where(new_BT, _DAY / 4 + 9 * _DAY * wait_BT, 20 + 240 * wait_BT).astype(np.int64)
        start_B = _EPOCH + (uniform(hashed(key_B, 1)) * 730 * _DAY).astype(np.int64)
        time_BT = start_B[:, None] + np.cumsum(gap_BT, axis=1)
        position_BT = np.empty_like(time_BT)
        position_BT[by_length] = self._walk(key_B[by_length], length_B[by_length], time_BT[by_length])

        held_BT = step_T < length_B[:, None]
        columns = {
            "user_id": np.repeat(users_B, length_B),
            "item_id": self._ids(position_BT[held_BT]),
            "timestamp": time_BT[held_BT],
        }
        table = pa.table({name: pa.array(column) for name, column in columns.items()})
        if self.features:
            for name, words, purpose in (("action", ACTIONS, _ACTION), ("device", DEVICES, _DEVICE)):
                number_BT = word(key_B[:, None], step_T, purpose)
                table = table.append_column(name, pa.array(words).take(pa.array(number_BT[held_BT])))
        return table

    def _walk(self, key_B: Keys, length_B: Ints, time_BT: Ints) -> Ints:
        """Positions [B, T] of the histories of users sorted by falling length; -1 after the end."""
        position_BT = np.full((len(key_B), self.longest), -1, dtype=np.int64)
        home_BH = np.stack([self._popular_style(uniform(hashed(key_B, 2 + home))) for home in range(_HOMES)], axis=1)
        returns = Returns(self.returns, self._keys["returns"], time_BT) if self.returns else None
        for step in range(int(length_B[0])):
            active = int(np.count_nonzero(length_B > step))
            rows = np.arange(active)
            if returns is not None and step:
                position_BT[:active, step] = returns.choose(key_B[:active], position_BT, step)
                rows = rows[position_BT[:active, step] < 0]
            for attempt in range(ATTEMPTS):
                phase = (step * _HOMES) // length_B[rows]
                last = position_BT[rows, step - 1]
                drawn = self._next(key_B[rows], step, attempt, last, home_BH[rows], phase)
                position_BT[rows, step] = drawn
                rows = rows[(position_BT[rows, :step] == drawn[:, None]).any(axis=1)]
                if not rows.size:
                    break
            if returns is not None:
                returns.note(position_BT, step, active)
        return position_BT

    def _next(self, key_B: Keys, step: int, attempt: int, last_B: Ints, home_BH: Ints, phase_B: Ints) -> Ints:
        """Position [B] of each user's next item after `last_B`; tastes drift from home to home with `phase_B`."""
        act_B, aux_B, where_B, rank_B = (
            uniform(hashed(key_B, counter(step, attempt, purpose))) for purpose in (2, 3, 4, 5)
        )
        new_B = starts_session(key_B, step)
        style_B, last_rank_B = last_B % self.n_styles, last_B // self.n_styles

        # a new session begins at a home: mostly the one of the user's present phase, sometimes any
        home_B = np.where(act_B < 0.7, phase_B, (aux_B * _HOMES).astype(np.int64))
        start_B = home_BH[np.arange(len(key_B)), home_B]
        chosen_B = np.where(new_B, start_B, self._popular_style(where_B))

        near_B = np.where(new_B, where_B < 0.5, act_B >= _P_SUCCESSOR + _P_SERIES)
        near_B &= new_B | (act_B < _P_SUCCESSOR + _P_SERIES + _P_CATEGORY)
        leaf_B = np.where(new_B, start_B, style_B) % _LEAVES
        looks_B = (self.n_styles - leaf_B + _LEAVES - 1) // _LEAVES
        chosen_B = np.where(near_B, leaf_B + _LEAVES * (aux_B * looks_B).astype(np.int64), chosen_B)

        follow_B = ~new_B & (act_B < _P_SUCCESSOR)
        link_B = (_SUCCESSORS * aux_B * aux_B).astype(np.int64)
        linked_style_B = hashed(self._keys["links"], style_B * _SUCCESSORS + link_B) % np.uint64(self.n_styles)
        chosen_B = np.where(follow_B, linked_style_B.astype(np.int64), chosen_B)
        linked_B = uniform(hashed(self._keys["successors"], last_B * _SUCCESSORS + link_B))
        if self.signals:
            chosen_B, told_B = self._signalled(key_B, step, last_B, chosen_B, new_B, act_B)
            follow_B, near_B, new_B = follow_B & ~told_B, near_B & ~told_B, new_B | told_B
        size_B = self._size(chosen_B)
        next_rank_B = zipf(size_B, np.where(follow_B, linked_B, rank_B), _ITEM_SHIFT)

        stay_B = ~new_B & ~follow_B & ~near_B & (act_B < _P_SUCCESSOR + _P_SERIES)
        series_B = last_rank_B % self.n_series
        members_B = (self._size(style_B) - series_B + self.n_series - 1) // self.n_series
        sibling_B = series_B + self.n_series * (rank_B * members_B).astype(np.int64)
        return np.where(stay_B, sibling_B * self.n_styles + style_B, next_rank_B * self.n_styles + chosen_B)

    def _signalled(
        self, key_B: Keys, step: int, last_B: Ints, chosen_B: Ints, new_B: NDArray[np.bool_], act_B: Floats
    ) -> tuple[Ints, NDArray[np.bool_]]:
        """Styles [B] where the features that carry a signal have their say, and where they have had it."""
        path_B = last_B % self.n_styles % _LEAVES
        values = {
            "action": lambda: word(key_B, step - 1, _ACTION),
            "context": lambda: word(key_B, step, _DEVICE),
            "item": lambda: self._season(last_B),
            "user": lambda: self._plan(key_B),
        }
        for name in self.signals:
            path_B = path_B * VALUES + values[name]()
        told_B = ~new_B & (act_B < _P_SIGNALLED)
        style_B = (hashed(self._keys["paths"], path_B) % np.uint64(self.n_styles)).astype(np.int64)
        return np.where(told_B, style_B, chosen_B), told_B

    def _season(self, position_B: Ints) -> Ints:
        return (hashed(self._keys["seasons"], position_B) % np.uint64(VALUES)).astype(np.int64)

    @staticmethod
    def _plan(key_B: Keys) -> Ints:
        return (hashed(key_B, _PLAN) % np.uint64(VALUES)).astype(np.int64)

    def _popular_style(self, uniform_B: Floats) -> Ints:
        return self._style_by_rank_S[zipf(np.int64(self.n_styles), uniform_B, _STYLE_SHIFT)]

    def _size(self, style_B: Ints) -> Ints:
        return (self.n_items - style_B + self.n_styles - 1) // self.n_styles

    def _ids(self, position_B: Ints) -> Ints:
        return (position_B * self._stride + self._offset) % self.n_items

    def _position(self, ids_B: Ints) -> Ints:
        return (ids_B - self._offset) % self.n_items * self._unstride % self.n_items

    def _attributes(self, position_B: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """(style, series, brand, colour), each [B]. A series has one brand, of the department's six."""
        style_B = position_B % self.n_styles
        series_B = position_B // self.n_styles % self.n_series
        own_brands = len(BRANDS) // len(TREE)
        draw_B = hashed(self._series_keys(style_B, series_B), 0) % np.uint64(own_brands)
        brand_B = style_B % len(TREE) * own_brands + draw_B.astype(np.int64)
        colour_B = (hashed(self._keys["tints"], position_B) % np.uint64(len(COLOURS))).astype(np.int64)
        return style_B, series_B, brand_B, colour_B

    def _series_keys(self, style_B: Ints, series_B: Ints) -> Keys:
        return hashed(self._keys["series"], style_B * self.n_series + series_B)

    def _nodes(self, level: str, numbers_B: Ints) -> NDArray[np.float32]:
        return directions(hashed(self._keys[level], numbers_B), self.dimension, _SCALES[level])
