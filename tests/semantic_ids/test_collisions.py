"""De-duplication digits and moves within the last level, against oracles that go item by item."""

from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids import collisions
from intrr_rec.semantic_ids.collisions import MOVE_RULES, costs_from, dedup_digits, order_rule, resolve_collisions
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.quantizers.residual import ResidualQuantizer

STRATEGIES = list(MOVE_RULES)


def test_unique_is_zero_and_colliding_count_from_one_in_item_order():
    codes_IL = torch.tensor([[3, 1], [0, 0], [3, 1], [2, 2], [0, 0], [3, 1]])
    assert dedup_digits(codes_IL, 8).tolist() == [1, 1, 2, 0, 2, 3]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_agrees_with_a_dictionary(paths):
    sizes, seen, expected = Counter(paths), Counter(), []
    for path in paths:
        seen[path] += 1
        expected.append(seen[path] if sizes[path] > 1 else 0)
    digits_I = dedup_digits(torch.tensor(paths), 100)
    assert digits_I.tolist() == expected
    assert len({(*path, digit) for path, digit in zip(paths, expected, strict=True)}) == len(paths)


def test_overflow_is_refused_never_clamped():
    codes_IL = torch.tensor([[5, 7]] * 3 + [[1, 1]])
    assert dedup_digits(codes_IL, 4).max() == 3
    with pytest.raises(
        ConfigError, match=r"3 items share the codes \(5, 7\), but 3 digits tell apart 2 .* raise index\."
    ):
        dedup_digits(codes_IL, 3)


def table(costs_IK):
    return lambda parts: (costs_IK[items_R] for items_R in parts)


def one_by_one(paths, costs, n_codes):
    """`next_nearest` as its rule reads."""
    taken, firsts, moved = defaultdict(set), set(), [list(path) for path in paths]
    for path in paths:
        taken[path[:-1]].add(path[-1])
    for item, path in enumerate(paths):
        if path not in firsts:
            firsts.add(path)
            continue
        free = [code for code in range(n_codes) if code not in taken[path[:-1]]]
        if free:
            moved[item][-1] = min(free, key=lambda code: costs[item][code])
            taken[path[:-1]].add(moved[item][-1])
    return moved


@st.composite
def catalogues(draw):
    n_codes, levels = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    code = st.integers(0, n_codes - 1)
    head = st.tuples(*[st.integers(0, 1)] * (levels - 1))
    paths = draw(st.lists(st.tuples(head, code).map(lambda p: (*p[0], p[1])), min_size=1, max_size=40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    return paths, torch.rand(len(paths), n_codes, generator=generator), n_codes


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(1, 50))
def test_next_nearest_agrees_with_its_rule_whatever_the_parts(catalogue, rows):
    paths, costs_IK, n_codes = catalogue
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collisions, "ROWS", rows)
        moved_IL = resolve_collisions(torch.tensor(paths), "next_nearest", n_codes, table(costs_IK))
    assert moved_IL.tolist() == one_by_one(paths, costs_IK.tolist(), n_codes)


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.sampled_from(STRATEGIES), st.integers(2, 40))
def test_every_item_gets_a_path_of_its_own_in_range_or_a_refusal(catalogue, strategy, dedup_codes):
    paths, costs_IK, n_codes = catalogue
    given_IL = torch.tensor(paths)
    codes_IL = resolve_collisions(given_IL, strategy, n_codes, table(costs_IK))
    assert torch.equal(codes_IL[:, :-1], given_IL[:, :-1]), "only the last level moves"
    assert codes_IL.min() >= 0 and codes_IL.max() < n_codes
    on_path = Counter(map(tuple, codes_IL.tolist()))
    in_prefix = Counter(path[:-1] for path in paths)
    if strategy != "digit":
        assert all(count == 1 for path, count in on_path.items() if in_prefix[path[:-1]] <= n_codes)
    worst = max(on_path.values())
    if worst > 1 and worst >= dedup_codes:
        with pytest.raises(ConfigError, match=r"raise index\.dedup_codes"):
            dedup_digits(codes_IL, dedup_codes)
        return
    digits_I = dedup_digits(codes_IL, dedup_codes)
    assert digits_I.min() >= 0 and digits_I.max() < dedup_codes
    assert len(torch.cat([codes_IL, digits_I.unsqueeze(1)], 1).unique(dim=0)) == len(paths)


@settings(max_examples=40, deadline=None)
@given(catalogues())
def test_sharing_out_fills_no_code_beyond_its_share(catalogue):
    paths, costs_IK, n_codes = catalogue
    codes_IL = resolve_collisions(torch.tensor(paths), "sinkhorn", n_codes, table(costs_IK))
    in_prefix = Counter(path[:-1] for path in paths)
    for path, count in Counter(map(tuple, codes_IL.tolist())).items():
        assert count <= -(-in_prefix[path[:-1]] // n_codes)


def test_sharing_out_costs_less_than_moving_one_by_one():
    generator = torch.Generator().manual_seed(0)
    costs_IK = torch.rand(30, 40, generator=generator)
    codes_IL = torch.stack([torch.zeros(30, dtype=torch.int64), costs_IK.argmin(1)], 1)
    total = {
        strategy: costs_IK.gather(1, resolve_collisions(codes_IL, strategy, 40, table(costs_IK))[:, 1:]).sum()
        for strategy in STRATEGIES
    }
    assert total["digit"] < total["sinkhorn"] <= total["next_nearest"]


def test_prefixes_without_a_collision_are_left_alone():
    codes_IL = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1]])
    asked = []

    def costs_of(parts):
        asked.extend(items_R.tolist() for items_R in parts)
        return (torch.ones(len(items_R), 2) for items_R in parts)

    for strategy in STRATEGIES:
        assert torch.equal(resolve_collisions(codes_IL, strategy, 2, costs_of)[:2], codes_IL[:2])
    assert asked == [[2, 3], [2, 3]], "asked by both strategies that move, about that prefix alone"


def test_costs_are_distances_to_the_last_level(monkeypatch):
    monkeypatch.setattr("intrr_rec.semantic_ids.quantizers.quantizer.BLOCK_ROWS", 7)
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizer((3, 4), normalize=False)
    quantizer.codebooks = [torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)]
    x_ID = torch.randn(20, 5, generator=generator)
    codes_IL, _ = quantizer.assign(x_ID)
    items_R = torch.tensor([0, 3, 8, 19])
    expected = torch.cdist(x_ID - quantizer.codebooks[0][codes_IL[:, 0]], quantizer.codebooks[1]).square()[items_R]
    torch.testing.assert_close(next(costs_from(quantizer, TensorSource(x_ID), codes_IL)([items_R])), expected)


def test_rules_tell_the_strategies_apart():
    assert len({order_rule(strategy) for strategy in STRATEGIES}) == len(STRATEGIES)
    assert all("dense item order" in order_rule(strategy) for strategy in STRATEGIES)
