"""Transitions counted pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import NeighboursConfig
from intrr_rec.data import transitions
from intrr_rec.data.transitions import count_transitions, transition_matrix

N_ITEMS = 5
histories = st.lists(st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=7), min_size=1, max_size=6)


def dense(histories, held_out, config):
    """The definition, written as loops."""
    count_II = np.zeros((N_ITEMS, N_ITEMS))
    for history, hidden in zip(histories, held_out, strict=True):
        seen = history[: len(history) - hidden]
        for place, item in enumerate(seen):
            for gap, weight in enumerate(config.gaps, start=1):
                if place + gap < len(seen):
                    count_II[item, seen[place + gap]] += weight
                    count_II[seen[place + gap], item] += weight * config.backward
    return count_II


@settings(max_examples=60, deadline=None)
@given(histories, st.data(), st.floats(0, 1))
def test_counts_and_matrix_are_those_of_the_definition(histories, data, damping):
    config = NeighboursConfig(backward=0.7, gaps=(1.0, 0.5, 0.33))
    held_out = [data.draw(st.integers(0, min(2, len(history)))) for history in histories]
    items_E = np.array([item for history in histories for item in history])
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "CHUNK", data.draw(st.sampled_from([1, 5, 1 << 20])))
        pair_N, count_N = count_transitions(items_E, offsets, np.array(held_out), N_ITEMS, config)
    assert (np.diff(pair_N) > 0).all()
    found_II = np.zeros(N_ITEMS * N_ITEMS)
    found_II[pair_N] = count_N
    expected_II = dense(histories, held_out, config)
    np.testing.assert_allclose(found_II.reshape(N_ITEMS, N_ITEMS), expected_II)

    start_I1, target_N, value_N = transition_matrix(pair_N, count_N, N_ITEMS, damping)
    matrix_II = np.zeros((N_ITEMS, N_ITEMS))
    matrix_II[np.repeat(np.arange(N_ITEMS), np.diff(start_I1)), target_N] = value_N
    degree_I = expected_II.sum(0)
    scaled_II = np.log1p(expected_II) / np.where(degree_I > 0, degree_I, 1) ** damping
    largest_I1 = scaled_II.max(1, keepdims=True)
    np.testing.assert_allclose(matrix_II, scaled_II / np.where(largest_I1 > 0, largest_I1, 1), rtol=1e-5)


def test_a_training_part_without_a_pair_has_no_transitions():
    pair_N, count_N = count_transitions(np.array([1, 2]), np.array([0, 1, 2]), np.array([0, 0]), 3, NeighboursConfig())
    assert len(pair_N) == len(count_N) == 0
    start_I1, target_N, value_N = transition_matrix(pair_N, count_N, 3, 0.3)
    assert start_I1.tolist() == [0, 0, 0, 0] and len(target_N) == len(value_N) == 0


@pytest.mark.parametrize("word", ["gaps=()", "gaps=(0.0,)", "backward=-1"])
def test_settings_out_of_range_are_refused(word):
    name, value = word.split("=")
    with pytest.raises(ValueError, match=name):
        NeighboursConfig(**{name: eval(value)})
