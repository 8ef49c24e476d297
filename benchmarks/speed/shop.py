"""A shop day by day: logs, and vectors of its items, of a catalogue that grows while tastes drift.

Items lie in topics, and each has a successor in its topic, which shoppers mostly go to. A new item takes the place of the successor
of an older one. Shoppers have a few home topics, one of which is another from time to time.

Shape suffixes: I items, T topics, U users, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TOPICS, HOMES, WIDTH = 40, 3, 32
FOLLOWS = 0.6  # share of steps that go to the successor
NEW, FRESH = 0.2, 7  # share of the other steps that go to items of the last FRESH days
MOVES = 0.02  # share of shoppers a day one of whose home topics changes


@dataclass
class Shop:
    """Its state after `day` days; day 1 is all that was before.

    Attributes:
        users, items, events: of the first day: shoppers, catalogue, events of each shopper.
        active, steps: shoppers a day after the first, and the events of each.
        growth: share of the catalogue that is new a day.
    """

    folder: Path
    users: int = 1_500
    items: int = 1_000
    events: int = 30
    active: int = 450
    steps: int = 1
    growth: float = 0.01
    seed: int = 0
    day: int = 0
    topic_I: list[int] = field(default_factory=list)
    next_I: list[int] = field(default_factory=list)
    born_I: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.homes_UH = self.rng.integers(0, TOPICS, (self.users, HOMES))
        self.centre_TD = self.rng.normal(size=(TOPICS, WIDTH))
        self.vectors_ID = np.empty((0, WIDTH), np.float32)
        self.members_T: list[list[int]] = [[] for _ in range(TOPICS)]
        self.last_U = [-1] * self.users
        (self.folder / "logs").mkdir(parents=True)

    def open(self) -> None:
        """Begin the next day: write its logs, and the vectors of all items."""
        self.day += 1
        first = self.day == 1
        self._add(self.items if first else round(self.growth * len(self.topic_I)))
        moved_U = self.rng.random(self.users) < (0 if first else MOVES)
        self.homes_UH[moved_U, 0] = self.rng.integers(0, TOPICS, int(moved_U.sum()))
        shoppers = np.arange(self.users) if first else self.rng.permutation(self.users)[: self.active]
        steps = self.events if first else self.steps
        walks = [self._walk(int(user), steps) for user in shoppers]
        time = self.day * 86_400 + 60 * np.arange(steps)
        logs = {"user_id": np.repeat(shoppers, steps), "item_id": np.concatenate(walks)}
        logs["timestamp"] = np.tile(time, len(shoppers))
        pq.write_table(pa.table(logs), self.folder / "logs" / f"day-{self.day:03}.parquet")
        table = {"item_id": np.arange(len(self.topic_I)), "embedding": list(self.vectors_ID)}
        pq.write_table(pa.table(table), self.folder / "vectors.parquet")

    def _add(self, count: int) -> None:
        added = self.rng.integers(0, TOPICS, count) if self.topic_I else np.arange(count) % TOPICS
        noise_ID = 0.5 * self.rng.normal(size=(count, WIDTH))
        self.vectors_ID = np.concatenate([self.vectors_ID, (self.centre_TD[added] + noise_ID).astype(np.float32)])
        for topic in added.tolist():
            item = len(self.topic_I)
            known = self.members_T[topic]
            before = known[int(self.rng.integers(len(known)))] if known else item
            self.next_I.append(self.next_I[before] if known else item)
            if known:
                self.next_I[before] = item
            self.topic_I.append(topic)
            self.born_I.append(self.day)
            known.append(item)

    def _walk(self, user: int, steps: int) -> list[int]:
        item, found = self.last_U[user], []
        for _ in range(steps):
            item = self.next_I[item] if item >= 0 and self.rng.random() < FOLLOWS else self._some(user)
            found.append(item)
        self.last_U[user] = item
        return found

    def _some(self, user: int) -> int:
        members = self.members_T[self.homes_UH[user, self.rng.integers(HOMES)]]
        if self.day > 1 and self.rng.random() < NEW:
            fresh = [item for item in members[-40:] if self.born_I[item] > self.day - FRESH]
            members = fresh or members
        return members[int(len(members) * self.rng.random() ** 2)]  # older items of a topic are the popular ones
