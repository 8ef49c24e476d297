"""Managed rows against ten lines of dictionaries, whole and in shards."""

import numpy as np
import pytest
import torch
from torchrec import JaggedTensor

from intrr_rec.config import ZchConfig
from intrr_rec.models.embeddings.zch import WAYS, ManagedInitialRows, ManagedRows, item_keys

SETS = 4


def managed(rows=SETS * WAYS, **config):
    return ManagedRows(rows, rows // WAYS, ZchConfig(rows=rows, **config), torch.device("cpu"))


def rows_of(module, ids):
    values = torch.as_tensor(ids)
    return module.remap({"uid": JaggedTensor(values, lengths=torch.ones(len(values), dtype=torch.int32))})[
        "uid"
    ].values()


class Reference:
    """Sets of dictionaries id → (row, last seen, uses); one id after the other, in ascending order."""

    def __init__(self, eviction, unseen_steps):
        self.eviction, self.unseen, self.clock = eviction, unseen_steps, 0
        self.owners = [{} for _ in range(SETS)]
        self.evicted = self.shared = 0

    def step(self, ids):
        self.clock += 1
        new, place, taken = [], {}, []
        for each in sorted(set(ids)):
            owners = self.owners[each % SETS]
            if each in owners:
                row, _, uses = owners[each]
                owners[each] = (row, self.clock, uses + 1)
            else:
                new.append(each)
        for each in new:
            owners, row = self.owners[each % SETS], each % SETS * WAYS + WAYS - 1
            free = sorted(set(range(row - WAYS + 1, row)) - {owner[0] for owner in owners.values()})
            old = [name for name, (_, seen, _) in owners.items() if self.clock - seen >= self.unseen]
            if free:
                owners[each] = (free[0], self.clock, 1)
            elif old:

                def worth(name, owners=owners):
                    row, seen, uses = owners[name]
                    return (seen, row) if self.eviction == "lru" else (uses, seen, row)

                gone = min(old, key=worth)
                owners[each] = (owners.pop(gone)[0], self.clock, 1)
                taken.append(owners[each][0])
            else:
                self.shared += 1
            place[each] = owners[each][0] if each in owners else row
        self.evicted += len(taken)
        return [place[each] if each in place else self.owners[each % SETS][each][0] for each in ids], taken


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
@pytest.mark.parametrize("unseen_steps", [1, 3])
def test_rows_are_those_of_dictionaries(eviction, unseen_steps):
    rng = np.random.default_rng(0)
    ours, reference = managed(eviction=eviction, unseen_steps=unseen_steps), Reference(eviction, unseen_steps)
    for step in range(40):
        ids = (rng.zipf(1.2, size=int(rng.integers(0, 120))) % 400).tolist()
        expected, taken = reference.step(ids)
        assert rows_of(ours, np.array(ids, np.int64)).tolist() == expected, step
        evicted = ours.evict()
        assert (evicted if evicted is not None else torch.empty(0)).sort().values.tolist() == sorted(taken)
    assert reference.evicted > 50 and (unseen_steps == 1 or reference.shared > 10)
    owned = sum(map(len, reference.owners))
    assert ours.counts().tolist() == [owned, reference.evicted, reference.shared]
    assert int(ours.open_slots()) == SETS * (WAYS - 1) - owned


def test_evaluation_changes_nothing_and_gives_strangers_the_shared_row():
    module = managed()
    known = rows_of(module, [5, 9, 2])
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.eval()
    assert rows_of(module, [2, 7, 5, 9, 7]).tolist() == [known[2], 3 * WAYS + WAYS - 1, *known[:2], 3 * WAYS + WAYS - 1]
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())
    assert module.evict() is None


def test_shards_give_the_rows_of_the_whole():
    rng = np.random.default_rng(1)
    whole, half = managed(), SETS * WAYS // 2
    shards = [whole.rebuild_with_output_id_range((first, first + half), []) for first in (0, half)]
    for _ in range(20):
        ids = rng.integers(0, 400, 90)
        expected = rows_of(whole, ids)
        for number, shard in enumerate(shards):
            mine = (ids % SETS) // 2 == number
            assert torch.equal(rows_of(shard, ids[mine]), expected[torch.from_numpy(mine)])
    assert torch.equal(sum(shard.counts() for shard in shards), whole.counts())
    assert whole.counts()[1] > 100


@pytest.mark.parametrize("first", [0, 5, WAYS - 1, WAYS])
def test_shared_rows_start_at_zero_wherever_a_shard_begins(first):
    torch.manual_seed(0)
    whole, shard = torch.empty(100, 3), torch.empty(60, 3)
    rows = ManagedInitialRows("uid", 3, 0.1)
    rows(whole)
    rows.fill(shard, first, 0)
    assert torch.equal(shard[: 100 - first], whole[first : first + 60])
    assert torch.nonzero((whole == 0).all(1)).flatten().tolist() == [31, 63, 95]


def test_keys_are_the_items_own():
    assert item_keys(["B0013", "B0014"]).tolist() == item_keys(["B0014", "B0013"]).tolist()[::-1]
    assert item_keys([7]).tolist() == [184498939294601447]
    keys = item_keys(range(10_000))
    assert len(keys.unique()) == 10_000 and int(keys.min()) >= 0
    assert np.bincount(keys.numpy() % 10).min() > 900
