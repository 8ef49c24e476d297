"""IntRR's losses: one causal pass equals all prefixes one by one, whatever the layout; each switch does what it says."""

import itertools

import numpy as np
import pytest
import torch

from intrr_rec.config import ModelConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import prefix_windows, training_windows
from intrr_rec.models import intrr
from intrr_rec.models.embeddings.tables import UID_TABLE, look_up
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.losses import level_nll
from tests import tiny

N_ITEMS, CODES, WINDOW, CONTENT = 20, (4, 3, 5), 12, 3
LENGTHS = (3, 4, 14, 9, 5, 5, 12, 7)  # the first has nothing to learn from, the third fills the window


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    items_E = rng.integers(0, N_ITEMS, sum(LENGTHS))
    return items_E, np.concatenate([[0], np.cumsum(LENGTHS)])


def make_model(**switches):
    torch.manual_seed(0)
    shape = {"hstu": {"layers": 2, "width": 8, "heads": 2}, "ran": {"hidden": 8}, "window": WINDOW}
    config = ModelConfig.model_validate({**shape, "codebook_std": 0.7, "uid_std": 0.7, **switches})
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))[torch.randperm(60)[:N_ITEMS]]
    return IntRR(config, paths, CODES, CONTENT, torch.device("cpu")).eval()


def make_batch(events, align_average="items", content=None):
    items_E, offsets = events
    collate = Collator(items_E, WINDOW, content, align_average)
    return collate(training_windows(offsets, WINDOW))


def prefixes(events):
    """Every (history, next item) of the training parts."""
    items_E, offsets = events
    for first, end in zip(offsets[:-1], offsets[1:] - 2, strict=True):
        for target in range(first + 1, end):
            yield items_E[first:target], items_E[target]


@pytest.mark.parametrize("context", ["previous", "cumulative"])
def test_one_pass_equals_every_prefix_on_its_own(events, context):
    model = make_model(ran={"hidden": 8, "context": context})
    books = model.codebooks()
    nll = []
    for history, target in prefixes(events):
        x_ND = model.items(torch.from_numpy(history), None, books).representation_UD
        state_D = model.states(x_ND, Layout(torch.zeros(1, len(history), dtype=torch.int64)))[-1:]
        path_BL = model.codes_IL[target][None].long()
        nll.append(level_nll(model.ran.teacher_forced(state_D, path_BL, books), path_BL)[0])
    assert len(nll) == sum(max(0, n - 3) for n in LENGTHS)
    torch.testing.assert_close(model(make_batch(events))["rec_L"], torch.stack(nll).mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", ["hstu", tiny.FOREIGN, "t5"])
def test_whole_histories_have_the_gradients_of_all_their_prefixes(events, backbone):
    items_E, offsets = events
    t5 = {"layers": 2, "width": 8, "heads": 2, "head_width": 4, "feed_forward": 16}
    own = {"hstu_released": {"layers": 2, "width": 8, "heads": 2}} if backbone == tiny.FOREIGN else {"t5": t5}
    model = make_model(backbone=backbone, **own)
    found = []
    for cut in (training_windows, prefix_windows):
        losses = model(Collator(items_E, WINDOW, None, "items")(cut(offsets, WINDOW)))
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and "content" not in name}
        gradients = torch.autograd.grad(losses["loss"], list(parameters.values()))
        found.append({"loss": losses["loss"].detach()} | dict(zip(parameters, gradients, strict=True)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_user_alone_equals_the_same_user_among_others(events):
    items_E, offsets = events
    model, collate = make_model(), Collator(items_E, WINDOW, None, "items")
    books = model.codebooks()

    def states(windows):
        batch = collate(windows)
        x_TD = model.items(batch.items_U, None, books).representation_UD[batch.slot_T]
        scored_SD = model.states(x_TD, batch.layout)[batch.scored_S]
        users_S = torch.from_numpy(batch.user_S)
        return {user: scored_SD[users_S == user] for user in windows.user_M.tolist()}

    windows = training_windows(offsets, WINDOW)
    together = states(windows)
    assert len(together) == len(LENGTHS) - 1
    for m in range(len(windows)):
        for user, own in states(windows.take(np.array([m]))).items():
            torch.testing.assert_close(together[user], own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_average", ["items", "positions"])
def test_alignment_averages_what_it_says(events, align_average):
    model = make_model()
    losses = model(make_batch(events, align_average))
    items_E, offsets = events
    seen = np.concatenate([items_E[a : max(a, b - 3)] for a, b in itertools.pairwise(offsets)])
    if align_average == "items":
        seen = np.unique(seen)
    items_U = torch.from_numpy(seen)
    log_p = model.items(items_U, None, model.codebooks()).log_p
    expected = [-p.gather(1, model.codes_IL[items_U, i : i + 1].long()).mean() for i, p in enumerate(log_p)]
    torch.testing.assert_close(losses["align_L"], torch.stack(expected), rtol=1e-5, atol=1e-5)
    entropy = [-(p.exp() * p).sum(1).mean() for p in log_p]
    torch.testing.assert_close(losses["entropy_L"], torch.stack(entropy), rtol=1e-5, atol=1e-5)


def test_loss_is_the_weighted_sum_of_both(events):
    losses = make_model(align_weight=0.3)(make_batch(events))
    expected = losses["rec_L"].sum() + 0.3 * losses["align_L"].sum()
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("user_side", ["teacher_forcing", "soft"])
def test_some_slots_at_a_time_have_the_loss_of_all_at_once(events, monkeypatch, user_side):
    model, batch = make_model(user_side=user_side), make_batch(events)
    found = []
    for logits in (1 << 25, 3 * sum(CODES)):
        monkeypatch.setattr(intrr, "LOGITS", logits)
        model.zero_grad()
        losses = model(batch)
        losses["loss"].backward()
        found.append((losses["rec_L"], {name: each.grad for name, each in model.named_parameters()}))
    (whole_L, wanted), (parts_L, gradients) = found
    torch.testing.assert_close(parts_L, whole_L, rtol=1e-5, atol=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_every_parameter_is_trained(events):
    model = make_model()
    model(make_batch(events))["loss"].backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == []


def test_switches_change_the_item_side_only_as_named():
    items_U, content_UV = torch.arange(N_ITEMS), torch.randn(N_ITEMS, CONTENT)
    plain, residual, content = make_model(), make_model(uid_residual=True), make_model(content=True)
    for other in (residual, content):  # the same tables and RAN, so that only the switch differs
        other.load_state_dict(plain.state_dict(), strict=False)
    uid_UD = look_up(plain.uid, UID_TABLE, items_U)
    books = plain.codebooks()
    base = plain.items(items_U, None, books)
    torch.testing.assert_close(
        residual.items(items_U, None, books).representation_UD, base.representation_UD + uid_UD, rtol=1e-6, atol=1e-6
    )
    guided_UD, _ = plain.ran.redistribute(uid_UD + content.content_scale * content.content_map(content_UV), books)
    torch.testing.assert_close(
        content.items(items_U, content_UV, books).representation_UD, guided_UD, rtol=1e-6, atol=1e-6
    )
    assert not torch.allclose(guided_UD, base.representation_UD, atol=1e-3)
