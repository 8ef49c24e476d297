"""A batch is the same step however it is dealt out: layout, inverse index and weights."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from intrr_rec.config import ModelConfig
from intrr_rec.data.loading.batch import pack
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import evaluation_windows, training_windows
from intrr_rec.models.intrr import IntRR
from tests.data.loading.deal import deal

N_ITEMS = 15
WINDOW = 9


def make_events(lengths, seed=0):
    items_E = np.random.default_rng(seed).integers(0, N_ITEMS, sum(lengths))
    return items_E, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@given(st.lists(st.integers(3, 30), min_size=1, max_size=12), st.integers(2, 12), st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_layout_holds_every_history_and_target(lengths, window, replicas, with_targets):
    items_E, offsets = make_events(lengths)
    windows = training_windows(offsets, window)
    assume(len(windows))
    times_E = None if with_targets else 1000 + np.arange(len(items_E)) ** 2
    collate = Collator(items_E, window, None, "items", times_E, with_targets=with_targets)
    targets, dealt = [], []
    for rank in range(replicas):
        batch = deal(collate, windows, rank, replicas)
        assert len(batch.items_U) == len(np.unique(batch.items_U))
        local = windows.take(np.arange(rank, len(windows), replicas))
        dealt += np.unique(batch.user_S).tolist()
        if not len(local):
            assert not len(batch.target_S) and not batch.align_weight_U.any()
            continue
        item_CN = batch.items_U[batch.slot_T].view(batch.layout.owner_CN.shape)
        scored_CN = torch.zeros(item_CN.numel(), dtype=torch.bool)
        scored_CN[batch.scored_S] = True
        scored_CN = scored_CN.view(item_CN.shape)
        target_of = dict(zip(batch.scored_S.tolist(), batch.target_S.tolist(), strict=True))
        for m in range(len(local)):
            start, length = local.start_M[m], local.length_M[m]
            end = start + length + with_targets
            block, slot = (batch.layout.owner_CN == m).nonzero(as_tuple=True)
            assert len(block.unique()) == 1 and slot.diff().eq(1).all()
            assert item_CN[block, slot].tolist() == items_E[start:end].tolist()
            carried = () if with_targets else ((batch.layout.event_time_CN, 0), (batch.layout.request_time_CN, 1))
            for carried_CN, later in carried:
                assert carried_CN[block, slot].tolist() == times_E[start + later : end + later].tolist()
            expected = [local.first_scored_M[m] <= p < length for p in range(end - start)]
            assert scored_CN[block, slot].tolist() == expected
            for position in range(local.first_scored_M[m], length):
                target = target_of[int(block[0] * scored_CN.shape[1] + slot[position])]
                assert target == items_E[start + position + 1]
        assert not scored_CN[batch.layout.owner_CN < 0].any()
        targets += batch.target_S.tolist()
    assert sorted(set(dealt)) == sorted(set(windows.user_M.tolist()))
    assert len(targets) == windows.n_targets


def test_times_are_left_out_unless_asked_for_and_move_with_the_batch():
    items_E, offsets = make_events([6, 9])
    windows = training_windows(offsets, WINDOW)
    plain = Collator(items_E, WINDOW, None, "items")(windows).to(torch.device("meta")).layout
    assert (plain.event_time_CN, plain.request_time_CN) == (None, None)
    timed = Collator(items_E, WINDOW, None, "items", items_E)(windows).to(torch.device("meta")).layout
    assert {each.device.type for each in (timed.owner_CN, timed.event_time_CN, timed.request_time_CN)} == {"meta"}


@given(st.lists(st.integers(1, 30), max_size=200), st.integers(30, 40))
def test_packing_overlaps_nothing_and_wastes_little(lengths, capacity):
    length_M = np.array(lengths, dtype=np.int64)
    block_M, offset_M, n_blocks = pack(length_M, capacity)
    used = np.zeros((n_blocks, capacity), dtype=int)
    for length, block, offset in zip(lengths, block_M, offset_M, strict=True):
        assert offset + length <= capacity
        used[block, offset : offset + length] += 1
    assert used.max(initial=0) <= 1 and used.sum() == sum(lengths)
    assert (2 * used.sum(1) <= capacity).sum() <= 1, "two half-empty blocks would have been one"
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):  # into the fullest block that it fits
        best = min((room for room in rooms if room >= length), default=None)
        if best is not None:
            rooms.remove(best)
        rooms.append((capacity if best is None else best) - length)
    assert sorted(rooms) == sorted((capacity - used.sum(1)).tolist())


def test_users_of_an_evaluation_batch_stand_beside_their_own_target():
    items_E, offsets = make_events([3, 12, 4, 9, 3, 7])
    windows = evaluation_windows(offsets, WINDOW, 1)
    batch = Collator(items_E, WINDOW, None, "items")(windows.take(np.array([4, 1, 0, 3, 2, 5])))
    assert batch.target_S.tolist() == items_E[offsets[batch.user_S + 1] - 1].tolist()
    assert sorted(batch.user_S.tolist()) == list(range(6))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hstu": {"layers": 1, "width": 8, "heads": 2}, "ran": {"hidden": 8}, "window": WINDOW, "content": True}
    config = ModelConfig.model_validate({**shape, "codebook_std": 0.7, "uid_std": 0.7})
    paths = torch.cartesian_prod(torch.arange(4), torch.arange(4))[torch.randperm(16)[:N_ITEMS]]
    return IntRR(config, paths, (4, 4), 3, torch.device("cpu")).eval()


@pytest.mark.parametrize("align_average", ["items", "positions"])
@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_mean_over_replicas_is_the_single_replicas_step(model, replicas, align_average):
    """Loss and gradients; with 7 replicas and 5 windows two shares are empty."""
    items_E, offsets = make_events([5, 14, 6, 9])  # the second user makes two windows
    content_IV = np.random.default_rng(1).normal(size=(N_ITEMS, 3)).astype(np.float32)
    windows = training_windows(offsets, WINDOW)
    collate = Collator(items_E, WINDOW, content_IV, align_average)
    parameters = list(model.parameters())

    def step(rank, of):
        losses = model(deal(collate, windows, rank, of))
        return [*(losses[k].detach() for k in losses), *torch.autograd.grad(losses["loss"], parameters)]

    assert len(windows) == 5
    shares = [step(rank, replicas) for rank in range(replicas)]
    for whole, *parts in zip(step(0, 1), *shares, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-5, atol=1e-5)


def test_an_empty_share_has_no_loss_and_reaches_every_parameter(model):
    """A rank without windows must still take part in averaging every gradient, or the others wait for it."""
    items_E, offsets = make_events([6])
    content_IV = np.zeros((N_ITEMS, 3), np.float32)
    batch = deal(Collator(items_E, WINDOW, content_IV, "items"), training_windows(offsets, WINDOW), 1, 2)
    assert (len(batch.user_S), len(batch.scored_S), float(batch.align_weight_U.sum())) == (0, 0, 0.0)
    losses = model(batch)
    assert losses["loss"] == 0
    gradients = torch.autograd.grad(losses["loss"], list(model.parameters()), allow_unused=True)
    missing = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
    assert missing == []
    assert all((g == 0).all() for g in gradients)
