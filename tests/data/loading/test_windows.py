"""Every training position scored exactly once, nothing held out is touched, later windows see enough context."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from intrr_rec.data.loading.windows import evaluation_windows, prefix_windows, training_windows

LENGTHS = st.lists(st.integers(3, 60), min_size=1, max_size=8)
WINDOW = st.integers(2, 20)


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@given(LENGTHS, WINDOW)
def test_training_windows_score_every_position_once(lengths, window):
    offsets = offsets_of(lengths)
    windows = training_windows(offsets, window)
    scored = []
    for user, start, length, first in zip(
        windows.user_M, windows.start_M, windows.length_M, windows.first_scored_M, strict=True
    ):
        assert 1 <= length <= window
        assert offsets[user] <= start
        assert (
            start + length <= offsets[user + 1] - 3
        )  # so the last target is no later than the third event from the end
        assert 0 <= first < length
        if start > offsets[user]:  # a later window: its first target still has half a window before it
            assert first + 1 >= window // 2
        scored += range(start + first + 1, start + length + 1)
    wanted = [e for u, n in enumerate(lengths) for e in range(offsets[u] + 1, offsets[u] + n - 2)]
    assert sorted(scored) == wanted
    assert windows.n_targets == len(wanted)


def test_a_history_within_the_window_is_one_window():
    windows = training_windows(offsets_of([3, 4, 13]), 10)
    assert windows.user_M.tolist() == [1, 2]
    assert windows.start_M.tolist() == [3, 7]
    assert windows.length_M.tolist() == [1, 10]
    assert windows.first_scored_M.tolist() == [0, 0]


@given(LENGTHS, WINDOW)
def test_prefix_windows_are_one_a_training_position(lengths, window):
    offsets = offsets_of(lengths)
    windows = prefix_windows(offsets, window)
    expected = [
        (user, max(offsets[user], target - window), target)
        for user, n in enumerate(lengths)
        for target in range(offsets[user] + 1, offsets[user] + n - 2)
    ]
    assert list(zip(windows.user_M, windows.start_M, windows.start_M + windows.length_M, strict=True)) == expected
    assert (windows.first_scored_M == windows.length_M - 1).all()
    assert windows.n_targets == training_windows(offsets, window).n_targets


@given(LENGTHS, WINDOW)
def test_evaluation_windows_end_right_before_their_target(lengths, window):
    offsets = offsets_of(lengths)
    for held_out in (2, 1):
        windows = evaluation_windows(offsets, window, held_out)
        assert windows.user_M.tolist() == list(range(len(lengths)))
        history = np.array(lengths) - held_out
        assert (windows.start_M + windows.length_M == offsets[1:] - held_out).all()
        assert (windows.length_M == np.minimum(history, window)).all()
        assert (windows.first_scored_M == windows.length_M - 1).all()
        assert windows.n_targets == len(lengths)


@given(st.lists(st.tuples(st.integers(3, 30), st.integers(0, 30)), min_size=1, max_size=8), WINDOW)
def test_held_out_parts_of_any_length_are_left_alone(histories, window):
    offsets = offsets_of([n for n, _ in histories])
    held_out = np.array([min(n, k) for n, k in histories])
    for cut in (training_windows, prefix_windows):
        windows = cut(offsets, window, held_out)
        ends = offsets[1:][windows.user_M] - held_out[windows.user_M]
        assert (windows.start_M + windows.length_M < ends).all()
        assert windows.n_targets == sum(max(0, n - min(n, k) - 1) for n, k in histories)
    windows = evaluation_windows(offsets, window, held_out)
    assert windows.user_M.tolist() == [u for u, (n, k) in enumerate(histories) if 0 < k < n]
    assert (windows.start_M + windows.length_M == offsets[1:][windows.user_M] - held_out[windows.user_M]).all()


def test_take_keeps_the_order_asked_for():
    windows = training_windows(offsets_of([9, 9, 9]), 10).take(np.array([2, 0]))
    assert windows.user_M.tolist() == [2, 0] and windows.start_M.tolist() == [18, 0]
