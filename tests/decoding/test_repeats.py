"""What a history says of the items it holds, against counting by hand."""

import math
from functools import partial

import numpy as np
import torch

from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.repeats import AGES, REPEATS, SeenItems

HISTORIES = [[3, 5, 3, 3, 7], [9], [2, 2], [7, 3, 1, 0, 7, 3, 1, 8], list(range(9, 0, -1))]
WINDOW, N_ITEMS = 6, 10


def test_features_of_every_item_are_what_counting_gives():
    batch = Batch.from_histories(HISTORIES, WINDOW)
    found_BWR = SeenItems.of(batch).at(torch.arange(N_ITEMS).expand(len(HISTORIES), -1))
    for user, history in enumerate(HISTORIES):
        read = history[-WINDOW:]
        for item in range(N_ITEMS):
            ages = [age for age, seen in enumerate(reversed(read)) if seen == item]
            expected = [0.0] * len(REPEATS)
            if ages:
                expected[0] = math.log(len(ages))
                expected[1 + sum(ages[0] >= age for age in AGES)] = 1.0
            assert found_BWR[user, item].tolist() == np.float32(expected).tolist()


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
