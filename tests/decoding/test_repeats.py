"""What a history says of the items it holds, against counting by hand."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.repeats import AGES, MINUTE, PERIODS, RETURNS, SECONDS, SeenItems

HISTORIES = [[3, 5, 3, 3, 7], [9], [2, 2], [7, 3, 1, 0, 7, 3, 1, 8], list(range(9, 0, -1))]
TIMES: Any = [[0, 50, 4_000, 90_000, 90_001, 95_000], [5, 9], None, [n**5 * 60 for n in range(9)], list(range(10))]
WINDOW, N_ITEMS = 6, 10


@pytest.mark.parametrize("told", [None, True, False])
def test_columns_of_every_item_are_what_counting_gives(told: bool | None) -> None:
    times = None if told is None else TIMES
    batch = Batch.from_histories(HISTORIES, WINDOW, times, told=bool(told))
    found_BWR = SeenItems.of(batch).at(torch.arange(N_ITEMS).expand(len(HISTORIES), -1))
    for user, history in enumerate(HISTORIES):
        read, known = history[-WINDOW:], None if times is None else times[user]
        for item in range(N_ITEMS):
            places = [place for place, seen in enumerate(read) if seen == item]
            expected = dict.fromkeys(RETURNS, 0.0)
            if places:
                age = len(read) - 1 - places[-1]
                expected |= {"seen": 1.0, "log_count": math.log(len(places))}
                expected |= {f"{edge}_events_ago": float(age >= edge) for edge in AGES}
                if known is not None:
                    *moments, asked = known[-len(read) - 1 :]
                    since = (asked if told else moments[-1]) - moments[places[-1]]
                    expected |= {f"{edge}_seconds_ago": float(since >= edge) for edge in SECONDS}
                    if len(places) > 1:
                        gap = max(MINUTE, (moments[places[-1]] - moments[places[0]]) / (len(places) - 1))
                        periods = {f"{edge}_periods_ago": max(MINUTE, since) / gap >= edge for edge in PERIODS}
                        expected |= {"twice": 1.0} | {name: float(value) for name, value in periods.items()}
            assert found_BWR[user, item].tolist() == np.float32(list(expected.values())).tolist()


def test_a_history_without_times_is_weighed_by_the_weights_without() -> None:
    batch = Batch.from_histories(HISTORIES, WINDOW, TIMES)
    seen, weight_2R = SeenItems.of(batch), torch.randn(2, len(RETURNS), generator=torch.Generator().manual_seed(0))
    item_BW = torch.arange(N_ITEMS).expand(len(HISTORIES), -1)
    found_BW2, column_BWR = seen.scores(item_BW, weight_2R), seen.at(item_BW)
    for user, times in enumerate(TIMES):
        expected_W = column_BWR[user] @ weight_2R[int(times is not None)]
        torch.testing.assert_close(found_BW2[user, :, 0], expected_W)
    assert torch.equal(found_BW2[..., 1], column_BWR[..., 0])
    untimed = SeenItems.of(Batch.from_histories(HISTORIES, WINDOW))
    assert torch.equal(seen.without_times().scores(item_BW, weight_2R), untimed.scores(item_BW, weight_2R))


def test_the_newest_distinct_items_come_first_and_filters_hold():
    batch = Batch.from_histories(HISTORIES, WINDOW)
    seen = SeenItems.of(batch)
    allowed_BI = torch.ones(len(HISTORIES), N_ITEMS, dtype=torch.bool)
    allowed_BI[:, 3] = False
    for mask_BI in (None, allowed_BI):
        for user, found in enumerate(
            seen.newest(4, mask_BI if mask_BI is None else partial(mask_BI.gather, 1)).tolist()
        ):
            expected = [i for i in dict.fromkeys(reversed(HISTORIES[user][-WINDOW:])) if mask_BI is None or i != 3][:4]
            assert found == expected + [-1] * (4 - len(expected))


def test_an_empty_place_is_no_item_of_the_history():
    seen = SeenItems.of(Batch.from_histories(HISTORIES, WINDOW))
    assert not seen.at(torch.full((len(HISTORIES), 2), -1)).any()
