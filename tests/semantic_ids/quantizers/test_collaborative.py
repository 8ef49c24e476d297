"""Collaborative vectors come from the training part alone and say who stands beside whom; the losses pull as they should."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import DataError
from intrr_rec.semantic_ids.build import assign_all
from intrr_rec.semantic_ids.quantizers.collaborative import (
    WINDOW,
    Alignment,
    collaborative_vectors,
    diversity_loss,
    training_pairs,
)
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource

GROUPS, MEMBERS = 4, 6


def prepared(folder, histories):
    rows = [(user, item, step) for user, history in enumerate(histories) for step, item in enumerate(history)]
    user, item, step = zip(*rows, strict=True)
    pq.write_table(pa.table({"user_id": user, "item_id": item, "timestamp": step}), folder / "logs.parquet")
    prepare_dataset([folder / "logs.parquet"], None, folder / "dataset", PrepareConfig(k_core=1))
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Users keep to one of four groups of six items, until their last two events, which lie in the next group."""
    rng = np.random.default_rng(0)
    histories = []
    for user in range(120):
        group = user % GROUPS
        inside = group * MEMBERS + rng.permutation(MEMBERS)[:5]
        outside = (group + 1) % GROUPS * MEMBERS + rng.permutation(MEMBERS)[:2]
        histories.append([*inside.tolist(), *outside.tolist()])
    return prepared(tmp_path_factory.mktemp("grouped"), histories)


def test_pairs_are_those_of_a_loop(tmp_path):
    rng = np.random.default_rng(1)
    dataset = prepared(tmp_path, [rng.integers(0, 30, rng.integers(3, 30)).tolist() for _ in range(20)])
    expected = []
    for user in range(dataset.n_users):
        history = dataset.items_E[dataset.offsets[user] : dataset.offsets[user + 1]][:-2].tolist()
        expected += [
            (history[i], history[j]) for i in range(len(history)) for j in range(i + 1, len(history)) if j - i <= WINDOW
        ]
    before, after = training_pairs(dataset)
    assert sorted(zip(before.tolist(), after.tolist(), strict=True)) == sorted(expected)


@pytest.mark.learns
def test_vectors_gather_what_is_consumed_together_and_never_see_the_targets(grouped, learned):
    vectors_IC = collaborative_vectors(grouped, GROUPS, seed=learned.seed)
    assert vectors_IC.shape == (GROUPS * MEMBERS, GROUPS)
    torch.testing.assert_close(vectors_IC.norm(dim=1), torch.ones(GROUPS * MEMBERS))
    alike_II = vectors_IC @ vectors_IC.T
    group_I = torch.arange(GROUPS * MEMBERS) // MEMBERS
    same_II = group_I[:, None] == group_I[None]
    learned.above("cosine within a group", alike_II[same_II].mean(), 0.8)
    # Every user's targets lie in the next group: had they been read, groups would not be orthogonal.
    learned.below("cosine between groups", alike_II[~same_II].abs().max(), 1e-3)
    assert torch.equal(vectors_IC, collaborative_vectors(grouped, GROUPS, seed=learned.seed))


def test_an_item_beside_no_other_has_no_vector(tmp_path):
    dataset = prepared(tmp_path, [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 5]])
    assert collaborative_vectors(dataset, 2, seed=0).any(1).tolist() == [True, True, False, False, False, False]


def test_nothing_consumed_together_is_refused(tmp_path):
    with pytest.raises(DataError, match="consumed together"):
        collaborative_vectors(prepared(tmp_path, [[0, 1, 2], [1, 2, 3]]), 2, seed=0)


def test_alignment_is_the_contrast_it_says_and_skips_the_unknown():
    torch.manual_seed(0)
    alignment, latent = Alignment(3, 4, temperature=0.5).requires_grad_(False), torch.randn(5, 3)
    known = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    known[2] = 0
    total = 0.0
    for i in (0, 1, 3, 4):
        mapped = alignment.map(latent[i])
        logits = {j: float(mapped @ known[j] / mapped.norm()) / 0.5 for j in (0, 1, 3, 4)}
        total -= logits[i] - math.log(sum(math.exp(value) for value in logits.values()))
    assert float(alignment(latent, known)) == pytest.approx(total / 4, rel=1e-5)
    assert float(alignment(latent, torch.zeros(5, 4))) == 0


def test_diversity_is_zero_when_even_and_one_when_collapsed():
    table = 10 * torch.eye(4)
    assert float(diversity_loss([table + 0.1], [table])) == pytest.approx(0, abs=1e-4)
    assert float(diversity_loss([(table[:1] + 0.1).repeat(4, 1)], [table])) == pytest.approx(1, abs=1e-3)


@pytest.mark.learns
def test_aligned_codes_follow_the_groups_where_content_says_nothing(grouped, learned):
    """Content is noise; told of the groups, items of one group share first codes far more often."""
    x_ID = torch.randn(GROUPS * MEMBERS, 10, generator=torch.Generator().manual_seed(0))
    shared = {}
    for weight in (0.0, 10.0):
        found = []
        for seed in range(3 * learned.seed, 3 * learned.seed + 3):  # one fit alone is a matter of luck
            config = IndexConfig.model_validate(
                {
                    "method": "rq_vae",
                    "seed": seed,
                    "levels": 2,
                    "codes": 4,
                    "training": {"epochs": 150, "batch_items": 24, "learning_rate": 1e-2},
                    "autoencoder": {"latent": 6, "hidden": [32]},
                    "collaborative": {"weight": weight, "width": 8, "diversity": min(weight, 2) / 10},
                }
            )
            vectors_IC = collaborative_vectors(grouped, 8, seed=seed) if weight else None
            quantizer = make_quantizer(config, 10, vectors_IC)
            quantizer.fit(TensorSource(x_ID))
            first_I = assign_all(quantizer, TensorSource(x_ID))[:, 0].view(GROUPS, MEMBERS)
            found.append(float((first_I[:, :, None] == first_I[:, None, :]).double().mean()))
        shared[weight] = sum(found) / len(found)
    learned.below("pairs of a group that share their first code, not told", shared[0.0], 0.45)
    learned.above("pairs of a group that share their first code", shared[10.0], 0.45)
