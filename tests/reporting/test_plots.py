"""Figures: the same points give the same bytes, and many points no larger a file."""

from __future__ import annotations

import math

import numpy as np

from intrr_rec.reporting import plots


def test_same_points_same_bytes():
    first, second = (plots.curves({"loss": [(0, 2.0), (1, 1.0)]}, x_label="epoch", title="loss") for _ in range(2))
    assert first == second


def test_size_of_a_figure_does_not_follow_the_number_of_points_or_codes():
    points = [(float(n), math.sin(n / 1e4)) for n in range(100_000)]
    assert len(plots.curves({"loss": points}, x_label="step", title="loss")) < 40_000
    p = np.zeros(8192)
    p[8000] = 1.0
    figure = plots.redistribution([p.tolist()], [8000], ["A"], level=1)
    assert len(figure) < 60_000
    assert "A, SID 8000: p = 1.00" in figure
