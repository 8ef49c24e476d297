"""Fitted weights: those of a conditional logit, whoever holds the users."""

import numpy as np
import torch

from intrr_rec.evaluation.fit_ranking import RIDGE, fit_weights

USERS, PLACES, FEATURES = 400, 12, 3
TRUE_F = torch.tensor([1.5, -0.7, 0.0])


class Alone:
    """A world of one."""

    @staticmethod
    def sum(values):
        return values


def choices(seed=0):
    """Users who choose by the logit with `TRUE_F`; the second feature is on another scale, and some places are empty."""
    generator = torch.Generator().manual_seed(seed)
    feature_BWF = torch.randn(USERS, PLACES, FEATURES, generator=generator) * torch.tensor([1.0, 10.0, 0.1])
    item_BW = torch.arange(PLACES).expand(USERS, -1).clone()
    item_BW[:, -2:][torch.rand(USERS, 2, generator=generator) < 0.5] = -1
    logit_BW = (feature_BWF @ (TRUE_F / torch.tensor([1.0, 10.0, 0.1]))).masked_fill(item_BW < 0, -torch.inf)
    place_B = torch.multinomial(logit_BW.softmax(1), 1, generator=generator).squeeze(1)
    return item_BW, feature_BWF, item_BW.gather(1, place_B[:, None]).squeeze(1)


def test_the_weights_are_found_again_and_are_a_minimum():
    item_BW, feature_BWF, target_B = choices()
    weight_F = fit_weights([(item_BW, feature_BWF, target_B)], FEATURES, Alone())
    scaled = weight_F * torch.tensor([1.0, 10.0, 0.1])
    # The standard error of each is about 1/sqrt(400) = .05.
    torch.testing.assert_close(scaled, TRUE_F, rtol=0, atol=0.25)

    scale_F = torch.tensor(
        [float(feature_BWF[item_BW >= 0][:, column].std(unbiased=False)) for column in range(FEATURES)]
    )
    weight = weight_F.double().requires_grad_()
    score_BW = (feature_BWF.double() @ weight).masked_fill(item_BW < 0, -torch.inf)
    loss = torch.nn.functional.cross_entropy(score_BW, target_B, reduction="sum")
    loss = loss + RIDGE / 2 * (weight * scale_F).square().sum()
    (gradient_F,) = torch.autograd.grad(loss, weight)
    assert float((gradient_F / scale_F).abs().max()) < 1e-3


def test_users_whose_target_is_no_candidate_tell_nothing():
    item_BW, feature_BWF, target_B = choices()
    weight_F = fit_weights([(item_BW, feature_BWF, target_B)], FEATURES, Alone())
    elsewhere = (item_BW[:50], feature_BWF[:50] * 100, torch.full((50,), PLACES + 5))
    again_F = fit_weights([(item_BW, feature_BWF, target_B), elsewhere], FEATURES, Alone())
    assert torch.equal(weight_F, again_F)


def test_no_users_leave_the_weights_at_zero():
    nobody = (
        torch.zeros(0, PLACES, dtype=torch.int64),
        torch.zeros(0, PLACES, FEATURES),
        torch.zeros(0, dtype=torch.int64),
    )
    assert fit_weights([nobody], FEATURES, Alone()).tolist() == [0] * FEATURES
    assert fit_weights([], FEATURES, Alone()).tolist() == [0] * FEATURES


def test_a_feature_that_never_differs_gets_no_weight():
    item_BW, feature_BWF, target_B = choices()
    feature_BWF[..., 2] = 7.0
    weight_F = fit_weights([(item_BW, feature_BWF, target_B)], FEATURES, Alone())
    assert np.isfinite(weight_F.numpy()).all() and abs(float(weight_F[2])) < 1e-6
