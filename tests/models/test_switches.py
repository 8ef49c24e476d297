"""The switches of IntRR: each changes what it names, and leaves every parameter within reach of the loss."""

import numpy as np
import pytest
import torch

from intrr_rec.config import ModelConfig, RanConfig
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import training_windows
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.ran import Ran
from tests import tiny

CODES, N_ITEMS, WIDTH = (3, 4, 5), 20, 8


def make_model(**switches):
    torch.manual_seed(0)
    shape = {"hstu": {"layers": 1, "width": WIDTH, "heads": 2}, "window": 6, "codebook_std": 0.7, "uid_std": 0.7}
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))[torch.randperm(60)[:N_ITEMS]]
    config = ModelConfig.model_validate({**shape, "ran": {"hidden": 8}, **switches})
    return IntRR(config, paths, CODES, None, torch.device("cpu")).eval()


def make_batch():
    lengths = [5, 8, 4]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items_E = np.random.default_rng(0).integers(0, N_ITEMS, sum(lengths))
    return Collator(items_E, 6, None, "items")(training_windows(offsets, 6))


@pytest.mark.parametrize(
    "switches",
    [
        {"ran": {"hidden": 8, "assignment": "straight_through"}},
        {"ran": {"hidden": 8, "similarity": "scaled"}},
        {"ran": {"hidden": 8, "context": "cumulative"}},
        {"shared_ran": False},
        {"item_side": "lookup"},
        {"user_side": "soft"},
        {"uid_width": 5},
        {"uid_residual": True},
        {"backbone": "t5", "t5": {"layers": 1, "width": 8, "heads": 2, "head_width": 4, "feed_forward": 8}},
        {"backbone": tiny.FOREIGN, "hstu_released": {"layers": 1, "width": 8, "heads": 2}},
    ],
    ids=lambda switches: next(iter(switches)),
)
def test_each_switch_changes_the_loss_and_reaches_every_parameter(switches):
    model, batch = make_model(**switches), make_batch()
    loss = model(batch)["loss"]
    assert not torch.isclose(loss, make_model()(batch)["loss"], rtol=1e-4)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert [n for (n, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None] == []


def test_straight_through_looks_up_the_likeliest_code_and_keeps_the_mixtures_gradient():
    torch.manual_seed(0)
    books = [torch.randn(5, 4)]
    soft, hard = (Ran(1, 4, RanConfig(hidden=3, assignment=kind)) for kind in ("soft", "straight_through"))
    x_BD = torch.randn(7, 4, requires_grad=True)
    mixture_BD, _ = soft.redistribute(x_BD, books)
    looked_up_BD, log_p = hard.redistribute(x_BD, books)
    torch.testing.assert_close(looked_up_BD, books[0][log_p[0].argmax(1)])
    weight_BD = torch.randn(7, 4)
    gradients = [torch.autograd.grad((z_BD * weight_BD).sum(), x_BD)[0] for z_BD in (mixture_BD, looked_up_BD)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_lookup_represents_an_item_by_the_sum_of_its_codewords():
    model = make_model(item_side="lookup")
    books = model.codebooks()
    items_U = torch.tensor([4, 11, 0])
    expected_UD = sum(book[model.codes_IL[items_U, level].long()] for level, book in enumerate(books))
    torch.testing.assert_close(model.items(items_U, None, books).representation_UD, expected_UD)


def test_a_separate_item_side_leaves_the_decoder_untouched_by_the_alignment():
    model, batch = make_model(shared_ran=False), make_batch()
    books = model.codebooks()
    side = model.items(batch.items_U, None, books)
    aligned = sum(log_p.sum() for log_p in side.log_p)
    decoder = [*model.ran.parameters(), *model.codebooks.parameters()]
    assert all(g is None for g in torch.autograd.grad(aligned, decoder, allow_unused=True, retain_graph=True))
    own = [*model.item_ran.parameters(), *model.item_codebooks.parameters()]
    assert all(g is not None for g in torch.autograd.grad(aligned, own, allow_unused=True))


def test_scaled_similarity_is_the_dot_product_over_root_width():
    torch.manual_seed(0)
    x_BD, book_KD = torch.randn(3, 4), torch.randn(5, 4)
    scaled = Ran(1, 4, RanConfig(hidden=3, similarity="scaled")).first_logits(x_BD, book_KD)
    torch.testing.assert_close(scaled, x_BD @ book_KD.T / 2)


@pytest.mark.parametrize("vector_width", [5, 30])
def test_codebooks_start_from_stage_one_geometry_at_their_own_scale(vector_width):
    model = make_model()
    before = [book.clone() for book in model.codebooks()]
    torch.manual_seed(1)
    basis = torch.linalg.qr(torch.randn(vector_width, 4)).Q  # centroids of rank 4 survive projection to 8 dimensions
    centroids = [torch.randn(k, 4) @ basis.T for k in CODES[:2]]
    model.codebooks.start_from(centroids)
    after = model.codebooks()
    torch.testing.assert_close(after[2], before[2])
    ours, theirs = torch.pdist(torch.cat(after[:2])), torch.pdist(torch.cat(centroids))
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.9999
    assert 0.5 < torch.cat(after[:2]).std() / torch.cat(before[:2]).std() < 2
