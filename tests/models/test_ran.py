"""The RAN against IntRR Eq. 4-7 written as in the paper, with explicit concatenation."""

import pytest
import torch

from intrr_rec.config import RanConfig
from intrr_rec.models.ran import IN_CACHE, Ran

WIDTH, HIDDEN, CODES = 6, 10, (5, 7, 4, 21)  # of the last so many that its scores take the way over D values


def paper_ran(ran, x_BD, codebooks, context, path_BL=None):
    """z_l and log p_l of every level; soft mixtures without a path, codewords of the path with one."""
    z, log_p = [], []
    for level, book_KD in enumerate(codebooks):
        h_BD = x_BD
        if level:
            z_before = z[-1] if context == "previous" else torch.stack(z).sum(0)
            rows = slice((level - 1) * HIDDEN, level * HIDDEN)
            weight = torch.cat([ran.signal.weight[rows], ran.context[level - 1].weight], 1)
            hidden = torch.relu(torch.cat([x_BD, z_before], 1) @ weight.T + ran.signal.bias[rows])
            h_BD = hidden @ ran.output[level - 1].weight.T + ran.output[level - 1].bias
        log_p.append(torch.log(torch.softmax(h_BD @ book_KD.T, -1)))
        z.append(log_p[-1].exp() @ book_KD if path_BL is None else book_KD[path_BL[:, level]])
    return z, log_p


@pytest.fixture(params=["previous", "cumulative"])
def case(request):
    torch.manual_seed(0)
    ran = Ran(len(CODES), WIDTH, RanConfig(hidden=HIDDEN, context=request.param))
    codebooks = [torch.randn(k, WIDTH, requires_grad=True) for k in CODES]
    x_BD = torch.randn(9, WIDTH, requires_grad=True)
    path_BL = torch.stack([torch.randint(k, (9,)) for k in CODES], 1)
    return ran, x_BD, codebooks, path_BL, request.param


def assert_same_with_gradients(ours, papers, leaves):
    """Equal values, and equal gradients of one random linear function of them."""
    for a, b in zip(ours, papers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    direction = [torch.randn_like(a) for a in ours]
    gradients = [
        torch.autograd.grad(sum((a * d).sum() for a, d in zip(values, direction, strict=True)), leaves)
        for values in (ours, papers)
    ]
    for a, b in zip(*gradients, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_redistribution_is_the_papers(case):
    ran, x_BD, codebooks, _, context = case
    representation_BD, log_p = ran.redistribute(x_BD, codebooks)
    z, expected = paper_ran(ran, x_BD, codebooks, context)
    leaves = [x_BD, *codebooks, *ran.parameters()]
    assert_same_with_gradients([representation_BD, *log_p], [sum(z), *expected], leaves)


def test_teacher_forcing_is_the_papers(case):
    ran, x_BD, codebooks, path_BL, context = case
    log_p = [torch.log_softmax(level, -1) for level in ran.teacher_forced(x_BD, path_BL, codebooks)]
    _, expected = paper_ran(ran, x_BD, codebooks, context, path_BL)
    assert_same_with_gradients(log_p, expected, [x_BD, *codebooks, *ran.parameters()])


def test_a_level_sees_no_code_of_its_own_or_later_levels(case):
    ran, x_BD, codebooks, path_BL, _ = case
    logits = ran.teacher_forced(x_BD, path_BL, codebooks)
    changed_BL = path_BL.clone()
    changed_BL[:, 2] = (changed_BL[:, 2] + 1) % CODES[2]
    after = ran.teacher_forced(x_BD, changed_BL, codebooks)
    assert [torch.equal(a, b) for a, b in zip(logits, after, strict=True)] == [True, True, True, False]


def test_context_of_the_previous_level_only_forgets_the_first():
    torch.manual_seed(0)
    codebooks = [torch.randn(k, WIDTH) for k in CODES]
    x_BD, path_BL = torch.randn(3, WIDTH), torch.zeros(3, len(CODES), dtype=torch.int64)
    changed_BL = path_BL.clone()
    changed_BL[:, 0] = 1
    for context, equal in (("previous", [True, False, True, True]), ("cumulative", [True, False, False, False])):
        ran = Ran(len(CODES), WIDTH, RanConfig(hidden=HIDDEN, context=context))
        pairs = zip(
            ran.teacher_forced(x_BD, path_BL, codebooks),
            ran.teacher_forced(x_BD, changed_BL, codebooks),
            strict=True,
        )
        assert [torch.equal(a, b) for a, b in pairs] == equal


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    ran = Ran(len(CODES), WIDTH, RanConfig(hidden=HIDDEN, dropout=0.5))
    codebooks, x_BD = [torch.randn(k, WIDTH) for k in CODES], torch.randn(3, WIDTH)
    twice = [ran.redistribute(x_BD, codebooks)[0] for _ in range(2)]
    assert not torch.equal(*twice)
    ran.eval()
    assert torch.equal(ran.redistribute(x_BD, codebooks)[0], ran.redistribute(x_BD, codebooks)[0])


@pytest.mark.parametrize("assignment", ["soft", "straight_through"])
def test_the_mixture_alone_is_that_of_redistribution(case, assignment):
    ran, _, codebooks, _, context = case
    alike = Ran(len(CODES), WIDTH, RanConfig(hidden=HIDDEN, context=context, assignment=assignment))
    alike.load_state_dict(ran.state_dict())
    x_BD = torch.randn(IN_CACHE + 3, WIDTH)
    torch.testing.assert_close(
        alike.mixture(x_BD, codebooks), alike.redistribute(x_BD, codebooks)[0], rtol=1e-5, atol=1e-6
    )
