"""Losses of paths against ten lines of arithmetic."""

import torch

from intrr_rec.models.losses import level_nll, sid_nll


def reference(log_p, codes_BL):
    return torch.stack(
        [torch.stack([-log_p[i][row, code] for i, code in enumerate(path)]) for row, path in enumerate(codes_BL)]
    )


def test_both_forms_equal_the_reference_and_each_other_in_gradients():
    torch.manual_seed(0)
    logits = [torch.randn(7, size, dtype=torch.float64, requires_grad=True) for size in (5, 3, 4)]
    codes_BL = torch.stack([torch.randint(size, (7,)) for size in (5, 3, 4)], dim=1)
    log_p = [level_BK.log_softmax(-1) for level_BK in logits]
    weight_BL = torch.randn(7, 3, dtype=torch.float64)
    expected_BL = reference(log_p, codes_BL)
    torch.testing.assert_close(sid_nll(log_p, codes_BL), expected_BL)
    torch.testing.assert_close(level_nll(logits, codes_BL), expected_BL.float())
    expected = torch.autograd.grad((expected_BL * weight_BL).sum(), logits, retain_graph=True)
    actual = torch.autograd.grad((sid_nll(log_p, codes_BL) * weight_BL).sum(), logits)
    torch.testing.assert_close(actual, expected)
