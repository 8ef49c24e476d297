"""The parts of trained quantisers against references of a few lines."""

import pytest
import torch
from torch.nn.functional import normalize

from intrr_rec.config import AutoencoderConfig, CodebookTraining
from intrr_rec.semantic_ids.quantizers.autoencoder import (
    Autoencoder,
    Codebooks,
    MovingAverages,
    batches,
    codebook_loss,
    nearest,
    straight_through,
)
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource, sample_rows


def latents(rows=50, width=6, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z, quantized = latents().requires_grad_(), latents(seed=1).requires_grad_()
    weight = latents(seed=2)
    through = straight_through(z, quantized.detach())
    assert torch.equal(through, quantized)
    (through * weight).sum().backward()
    assert torch.equal(z.grad, weight) and quantized.grad is None


@pytest.mark.parametrize("normalized", [False, True])
def test_residual_codes_inputs_and_latent_follow_the_definition(normalized):
    codebooks = Codebooks((4, 5, 3), 6, normalize=normalized)
    with torch.no_grad():
        codebooks.scale_L.copy_(torch.tensor([1.0, 0.5, 0.25]) if normalized else torch.ones(3))
    z = latents()
    found = codebooks(z)
    for row in range(len(z)):
        left, rebuilt = z[row], torch.zeros(6)
        for level, table in enumerate(codebooks.tables):
            left = normalize(left, dim=0) if normalized else left
            torch.testing.assert_close(found.inputs[level][row], left)
            code = int((table - left).square().sum(1).argmin())
            assert found.codes_BL[row, level] == code
            left = left - table[code]
            rebuilt = rebuilt + codebooks.scale_L[level] * table[code]
        torch.testing.assert_close(found.latent_BZ[row], rebuilt)
    for level in range(3):
        torch.testing.assert_close(codebooks.level_input(z, found.codes_BL[:, :level]), found.inputs[level])
    torch.testing.assert_close(codebooks.rebuild(found.codes_BL), found.latent_BZ)


def test_product_levels_quantise_their_own_slices():
    codebooks = Codebooks((4, 5, 3), 7, product=True)
    z = latents(width=7)
    found = codebooks(z)
    assert [tuple(table.shape) for table in codebooks.tables] == [(4, 3), (5, 2), (3, 2)]
    for level, part in enumerate(z.split([3, 2, 2], 1)):
        assert torch.equal(found.inputs[level], part)
        assert torch.equal(found.codes_BL[:, level], nearest(part, codebooks.tables[level]))
    assert torch.equal(found.latent_BZ, torch.cat(found.chosen, 1))
    torch.testing.assert_close(
        codebooks.rebuild(found.codes_BL[:, :1])[:, 3:5], codebooks.tables[1].mean(0).expand(50, 2)
    )


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_codebook_loss_and_where_its_gradients_go(update):
    codebooks = Codebooks((4, 5), 6)
    z = latents().requires_grad_()
    found = codebooks(z)
    training = CodebookTraining(commitment=0.25, update=update)
    loss = codebook_loss(found, training)
    apart = sum((i - c).square().sum() for i, c in zip(found.inputs, found.chosen, strict=True)) / len(z)
    torch.testing.assert_close(loss, apart * (1.25 if update == "gradient" else 0.25))
    loss.backward()
    # Later residuals do not reach back through earlier codewords, but do reach the encoder.
    expected = 0.25 * 2 / len(z) * sum((i - c) for i, c in zip(found.inputs, found.chosen, strict=True))
    torch.testing.assert_close(z.grad, expected.detach())
    assert (codebooks.tables[0].grad is not None) == (update == "gradient")


def test_moving_averages_are_the_textbook_ones():
    codebooks, decay = Codebooks((3, 4), 2), 0.9
    averages = MovingAverages(codebooks, decay)
    counts = [[1.0] * 3, [1.0] * 4]
    sums = [[row.clone() for row in table.detach()] for table in codebooks.tables]
    for seed in range(5):
        found = codebooks(latents(20, 2, seed))
        averages.update(found)
        for level, table in enumerate(codebooks.tables):
            for code in range(len(table)):
                given = found.inputs[level][found.codes_BL[:, level] == code]
                counts[level][code] = decay * counts[level][code] + (1 - decay) * len(given)
                sums[level][code] = decay * sums[level][code] + (1 - decay) * given.sum(0)
                torch.testing.assert_close(table[code], sums[level][code] / counts[level][code])


def test_initialise_finds_clusters_level_by_level():
    centres = 10 * latents(4, 6)
    offsets = latents(3, 6, seed=1)
    z = (centres[:, None] + offsets[None]).reshape(-1, 6).repeat(10, 1)
    codebooks = Codebooks((4, 3), 6)
    codebooks.initialise(z, seeded())
    found = codebooks(z)
    torch.testing.assert_close(found.latent_BZ, z, atol=1e-4, rtol=1e-4)
    assert len(found.codes_BL.unique(dim=0)) == 12


def test_autoencoder_takes_bare_widths_and_evaluates_rows_independently():
    model = Autoencoder(8, AutoencoderConfig(latent=3, hidden=(5,))).eval()
    x = latents(10, 8)
    assert model.encode(x).shape == (10, 3) and model.decode(model.encode(x)).shape == (10, 8)
    torch.testing.assert_close(model.encode(x)[:4], model.encode(x[:4]))


def test_batches_hold_every_item_once_in_seeded_order():
    source = TensorSource(latents(25, 2))
    one, two = (list(batches(source, 10, seeded(3))) for _ in range(2))
    assert [len(ids) for ids, _ in one] == [10, 10, 5]
    assert sorted(torch.cat([ids for ids, _ in one]).tolist()) == list(range(25))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(x, source.x_ID[ids]) for ids, x in one)
    assert sum(len(ids) for ids, _ in batches(source, 8, seeded())) == 24, "a batch of one has no variance"


def test_a_sample_is_spread_evenly(monkeypatch):
    monkeypatch.setattr("intrr_rec.semantic_ids.quantizers.quantizer.SAMPLE_ROWS", 10)
    assert torch.equal(sample_rows(TensorSource(latents(25, 2))), latents(25, 2)[::3])
