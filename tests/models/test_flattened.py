"""The flattened baseline: what its loss is, and that decoding token by token equals reading everything anew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from intrr_rec.config import ModelConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import evaluation_windows, training_windows
from intrr_rec.decoding.beam_cached import cached_beam_search
from intrr_rec.models.flattened import Flattened
from intrr_rec.semantic_ids.trie import PrefixTrie
from tests import tiny
from tests.data.loading.deal import deal
from tests.models.siblings import not_siblings

CODES, N_ITEMS, WINDOW = (4, 5, 3), 22, 6
LENGTHS = [7, 4, 11, 5, 3]
HSTU = {"layers": 2, "width": 12, "heads": 3, "dropout": 0.3}
T5 = HSTU | {"head_width": 5, "feed_forward": 20, "deep_feed_forward": True}
BACKBONES = {
    "hstu": {"backbone": "hstu", "hstu": HSTU},
    "hstu_released": {"backbone": tiny.FOREIGN, "hstu_released": HSTU},
    "t5": {"backbone": "t5", "t5": T5},
}


def make_model(backbone, n_items=N_ITEMS):
    torch.manual_seed(0)
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))
    codes_IL = paths[torch.randperm(len(paths))[:n_items]]
    config = ModelConfig.model_validate(
        {"kind": "flattened", "window": WINDOW, "codebook_std": 0.4, **BACKBONES[backbone]}
    )
    model = Flattened(config, codes_IL, CODES, torch.device("cpu")).eval()
    for name, parameter in model.backbone.named_parameters():  # away from the initial scale, so that every term counts
        if "bias" in name or "uvqk" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(params=BACKBONES)
def model(request):
    return make_model(request.param)


def make_events(n_items=N_ITEMS):
    items_E = np.random.default_rng(0).integers(0, n_items, sum(LENGTHS))
    return items_E, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)


def evaluation_batch(n_items=N_ITEMS):
    items_E, offsets = make_events(n_items)
    return Collator(items_E, WINDOW, None, "items")(evaluation_windows(offsets, WINDOW, 1))


def path_log_p(model, items, normalize="global"):
    """log P of each code of the last item after the items before it, reading the whole sequence anew: `[L]`."""
    books = model.codebooks()
    x_TD = torch.stack([books[level][code] for item in items for level, code in enumerate(model.codes_IL[item])])
    state_TD = model.backbone(x_TD, Layout(torch.zeros(1, len(x_TD), dtype=torch.int64)))
    path_L, log_p = model.codes_IL[items[-1]], []
    for level, book_KD in enumerate(books):
        logits_K = book_KD @ state_TD[-len(books) - 1 + level]
        if normalize == "trie":
            others_K = not_siblings(model.codes_IL, path_L, level, len(book_KD))
            logits_K = logits_K.masked_fill(others_K, -torch.inf)
        log_p.append(logits_K.log_softmax(0)[path_L[level]])
    return torch.stack(log_p)


def test_loss_is_the_mean_over_targets_of_each_codes_nll(model):
    items_E, offsets = make_events()
    windows = training_windows(offsets, WINDOW)
    assert (windows.first_scored_M > 0).any()
    losses = model(Collator(items_E, WINDOW, None, "items", with_targets=True)(windows))
    nll = [
        -path_log_p(model, items_E[start : start + position + 2])
        for start, length, first in zip(windows.start_M, windows.length_M, windows.first_scored_M, strict=True)
        for position in range(first, length)
    ]
    assert len(nll) == windows.n_targets
    torch.testing.assert_close(losses["rec_L"], torch.stack(nll).mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["rec_L"].sum())


@torch.no_grad()
def test_steps_score_what_reading_everything_anew_scores(model):
    """Beams that branch from one another at every step; histories of unequal length, two to a block."""
    batch, books = evaluation_batch(), model.codebooks()
    users, beams = len(batch.scored_S), 4
    owner_B = batch.layout.owner_CN.flatten()[batch.scored_S]
    assert len(batch.layout.owner_CN) < users
    logits_BK, prompts = model.begin(batch, books)
    cache = prompts.cache(torch.arange(users))
    logits_BWK, code_BW = logits_BK[:, None], None
    chosen = torch.zeros(users, 1, 0, dtype=torch.int64)
    for level in range(len(CODES)):
        for user in range(users):
            mine_T = batch.layout.owner_CN.flatten() == owner_B[user]
            history = batch.items_U[batch.slot_T[mine_T]]
            for beam in range(logits_BWK.shape[1]):
                tokens = [books[i][code] for item in history for i, code in enumerate(model.codes_IL[item])]
                tokens += [books[i][code] for i, code in enumerate(chosen[user, beam])]
                x_TD = torch.stack(tokens)
                state_TD = model.backbone(x_TD, Layout(torch.zeros(1, len(x_TD), dtype=torch.int64)))
                expected_K = books[level] @ state_TD[-1]
                torch.testing.assert_close(logits_BWK[user, beam], expected_K, rtol=1e-5, atol=5e-5)
        if level + 1 < len(CODES):
            parent_BW = torch.randint(chosen.shape[1], (users, beams))
            code_BW = torch.randint(CODES[level], (users, beams))
            chosen = torch.cat([chosen[torch.arange(users)[:, None], parent_BW], code_BW[..., None]], dim=-1)
            cache.select(parent_BW)
            logits_BWK = model.step(level, code_BW, cache, books)


@torch.no_grad()
@pytest.mark.parametrize("normalize", ["trie", "global"])
def test_a_beam_of_full_width_is_the_exhaustive_ranking(model, normalize):
    batch, trie = evaluation_batch(), PrefixTrie.build(model.codes_IL, CODES)
    items_BW, scores_BW = cached_beam_search(model, batch, trie, N_ITEMS, normalize)
    for user, owner in enumerate(batch.layout.owner_CN.flatten()[batch.scored_S]):
        history = batch.items_U[batch.slot_T[batch.layout.owner_CN.flatten() == owner]].tolist()
        scores_I = torch.stack([path_log_p(model, [*history, item], normalize).sum() for item in range(N_ITEMS)])
        best_I, order_I = scores_I.sort(descending=True)
        assert torch.equal(items_BW[user], order_I)
        torch.testing.assert_close(scores_BW[user], best_I, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_scored_slot_sees_nothing_after_it(model):
    """Decoding from inside a history equals decoding from its end, cut there."""
    items_E, offsets = make_events()
    windows = training_windows(offsets, WINDOW)
    trie = PrefixTrie.build(model.codes_IL, CODES)
    batch = Collator(items_E, WINDOW, None, "items", with_targets=True)(windows)
    items_BW, scores_BW = cached_beam_search(model, batch, trie, 5, "trie")
    assert len(items_BW) == windows.n_targets
    for row, slot in enumerate(batch.scored_S.tolist()):
        before_T = batch.layout.owner_CN.flatten() == batch.layout.owner_CN.flatten()[slot]
        before_T[slot + 1 :] = False
        history = batch.items_U[batch.slot_T[before_T]].tolist()
        score = path_log_p(model, [*history, items_BW[row, 0].item()], "trie").sum()
        torch.testing.assert_close(scores_BW[row, 0], score, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nobody_and_a_catalogue_smaller_than_the_beam():
    model = make_model("hstu", n_items=3)
    trie, batch = PrefixTrie.build(model.codes_IL, CODES), evaluation_batch(n_items=3)
    items_BW, scores_BW = cached_beam_search(model, batch, trie, 50, "trie")
    assert (items_BW[:, :3].sort(1).values == torch.arange(3)).all()
    assert (items_BW[:, 3:] == -1).all() and torch.isneginf(scores_BW[:, 3:]).all()
    batch.scored_S = batch.scored_S[:0]
    nobody_BW, _ = cached_beam_search(model, batch, trie, 50, "trie")
    assert nobody_BW.shape == (0, items_BW.shape[1])


@pytest.mark.parametrize("replicas", [2, 7])
def test_mean_over_replicas_is_the_single_replicas_step(model, replicas):
    """Loss and gradients of every parameter; with 7 replicas and 5 windows two shares are empty."""
    items_E, offsets = make_events()
    windows = training_windows(offsets, WINDOW)
    assert len(windows) == 5
    collate, parameters = Collator(items_E, WINDOW, None, "items", with_targets=True), list(model.parameters())

    def step(rank, of):
        losses = model(deal(collate, windows, rank, of))
        return [losses["rec_L"], *torch.autograd.grad(losses["loss"], parameters)]

    shares = [step(rank, replicas) for rank in range(replicas)]
    for whole, *parts in zip(step(0, 1), *shares, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-5, atol=1e-5)


def test_logits_are_tied_to_the_codebooks_of_the_tokens(model):
    """One table: nothing but it and the backbone is trained."""
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"codebooks", "backbone"}
    rows = torch.cat(model.codebooks())
    assert torch.equal(
        F.embedding(model.codes_IL[3] + model.first_L, rows)[1], model.codebooks()[1][model.codes_IL[3, 1]]
    )
