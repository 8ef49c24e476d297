"""TIGER against a dense reference of one sample at a time, with nothing packed and nothing cached."""

import numpy as np
import pytest
import torch

from intrr_rec.config import TigerConfig
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import evaluation_windows, prefix_windows
from intrr_rec.decoding.beam_cached import cached_beam_search
from intrr_rec.models.backbones.t5 import distance_bucket, two_sided_bucket
from intrr_rec.models.tiger import Tiger
from intrr_rec.semantic_ids.trie import PrefixTrie
from tests.data.loading.deal import deal
from tests.models.siblings import not_siblings
from tests.models.test_flattened import CODES, LENGTHS, N_ITEMS, WINDOW, make_events

HEADS = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))
    codes_IL = paths[torch.randperm(len(paths))[:N_ITEMS]]
    config = TigerConfig(layers=2, width=12, heads=HEADS, head_width=5, feed_forward=20, dropout=0.3)
    model = Tiger(config, 0.4, codes_IL, CODES, torch.device("cpu")).eval()
    for name, parameter in model.named_parameters():  # away from the initial scale, so that every term counts
        if "bias" in name or "norm" in name or "query" in name:
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def attend(q, k, v, bias_QKH):
    """One query and one head at a time."""
    rows = [
        torch.cat([(q[i, h] @ k[:, h].T + b[:, h]).softmax(0) @ v[:, h] for h in range(HEADS)])
        for i, b in enumerate(bias_QKH)
    ]
    return torch.stack(rows)


def distances(n):
    return torch.arange(n)[:, None] - torch.arange(n)[None, :]


def feed_forward(layer, x):
    return x + layer.contract(layer.expand(layer.feed_forward_norm(x)).relu())


def by_head(x):
    return x.unflatten(-1, (HEADS, -1))


def path_log_p(model, items, normalize="global"):
    """log P of each code of the last item after the items before it: `[L]`."""
    books = model.codebooks()
    x = torch.stack([books[level][code] for item in items[:-1] for level, code in enumerate(model.codes_IL[item])])
    bias = model.encoder_bias[two_sided_bucket(distances(len(x)))]
    for layer in model.encoder:
        q, k, v = (by_head(part) for part in layer.qkv(layer.attention_norm(x)).chunk(3, -1))
        x = feed_forward(layer, x + layer.output(attend(q, k, v, bias)))
    encoded = model.encoder_norm(x)
    path_L = model.codes_IL[items[-1]]
    y = torch.stack([model.start, *(books[level][code] for level, code in enumerate(path_L[:-1]))])
    ahead = distances(len(y)) < 0
    bias = model.decoder_bias[distance_bucket(distances(len(y)))].masked_fill(ahead[..., None], -torch.inf)
    for layer in model.decoder:
        own = layer.own
        q, k, v = (by_head(part) for part in own.qkv(own.attention_norm(y)).chunk(3, -1))
        y = y + own.output(attend(q, k, v, bias))
        k, v = (by_head(part) for part in layer.keys_values(encoded).chunk(2, -1))
        none = torch.zeros(len(y), len(encoded), HEADS)
        y = y + layer.output(attend(by_head(layer.query(layer.norm(y))), k, v, none))
        y = feed_forward(own, y)
    log_p = []
    for level, (book_KD, state_D) in enumerate(zip(books, model.decoder_norm(y), strict=True)):
        logits_K = book_KD @ state_D
        if normalize == "trie":
            others_K = not_siblings(model.codes_IL, path_L, level, len(book_KD))
            logits_K = logits_K.masked_fill(others_K, -torch.inf)
        log_p.append(logits_K.log_softmax(0)[path_L[level]])
    return torch.stack(log_p)


def test_loss_is_the_mean_over_targets_of_each_codes_nll(model):
    items_E, offsets = make_events()
    windows = prefix_windows(offsets, WINDOW)
    batch = Collator(items_E, WINDOW, None, "items")(windows)
    assert len(batch.layout.owner_CN) < len(windows), "no two histories share a block"
    losses = model(batch)
    nll = [-path_log_p(model, items_E[s : s + n + 1]) for s, n in zip(windows.start_M, windows.length_M, strict=True)]
    torch.testing.assert_close(losses["rec_L"], torch.stack(nll).mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["rec_L"].sum())


@torch.no_grad()
@pytest.mark.parametrize("normalize", ["trie", "global"])
def test_a_beam_of_full_width_is_the_exhaustive_ranking(model, normalize):
    items_E, offsets = make_events()
    batch = Collator(items_E, WINDOW, None, "items")(evaluation_windows(offsets, WINDOW, 1))
    trie = PrefixTrie.build(model.codes_IL, CODES)
    items_BW, scores_BW = cached_beam_search(model, batch, trie, N_ITEMS, normalize)
    assert len(items_BW) == len(LENGTHS)
    for row, user in enumerate(batch.user_S):
        history = items_E[offsets[user] : offsets[user + 1] - 1][-WINDOW:].tolist()
        scores_I = torch.stack([path_log_p(model, [*history, item], normalize).sum() for item in range(N_ITEMS)])
        best_I, order_I = scores_I.sort(descending=True)
        torch.testing.assert_close(scores_BW[row], best_I, rtol=1e-5, atol=1e-5)
        assert torch.equal(items_BW[row], order_I)


def test_mean_over_replicas_is_the_single_replicas_step(model):
    """Loss and gradients of every parameter; of 5 windows and 7 replicas two shares are empty."""
    items_E, offsets = make_events()
    windows = prefix_windows(offsets, WINDOW).take(np.arange(5))
    collate, parameters = Collator(items_E, WINDOW, None, "items"), list(model.parameters())

    def step(rank, of):
        losses = model(deal(collate, windows, rank, of))
        return [losses["rec_L"], *torch.autograd.grad(losses["loss"], parameters)]

    shares = [step(rank, 7) for rank in range(7)]
    for whole, *parts in zip(step(0, 1), *shares, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-4, atol=1e-5)


def test_buckets_tell_the_two_directions_apart():
    bucket = two_sided_bucket(torch.tensor([0, 1, 7, 8, 11, 127, 128, 9999, -1, -7, -8, -127, -9999])).tolist()
    assert bucket == [0, 1, 7, 8, 8, 15, 15, 15, 17, 23, 24, 31, 31]
