"""One step dealt to ranks in one process, by the sums that ranks would exchange."""

import numpy as np

from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.counts import StepTotals, add_up, by_owner
from intrr_rec.data.loading.windows import Windows


def deal(collate: Collator, windows: Windows, rank: int, replicas: int, step: int = 0) -> Batch:
    """The batch of a rank that takes every `replicas`-th window."""
    shares = [collate.share(windows.take(np.arange(each, len(windows), replicas)), step) for each in range(replicas)]
    counts = [collate.counts([share]) for share in shares]
    totals = total(counts)[rank]
    return collate.weigh([shares[rank]], totals, counts[rank], replicas)[0]


def total(counts):
    """What the exchange gives each rank, by its own steps: items to their owners, sums back."""
    ranks, spare_X = len(counts), next(each.spare_X for each in counts if each.windows)
    orders = [by_owner(each.items_U, each.count_U, ranks) for each in counts]
    parts = [np.split(order_U, np.cumsum(sent_R)[:-1]) for order_U, sent_R, _ in orders]
    answers, distinct = [np.empty_like(each.count_U) for each in counts], 0
    for owner in range(ranks):
        places = [each[owner] for each in parts]
        row_K = np.concatenate([np.split(row_U, np.cumsum(sent_R)[:-1])[owner] for _, sent_R, row_U in orders])
        total_K, owned = add_up(row_K, ranks)
        distinct += owned
        for answer, at, found in zip(
            answers, places, np.split(total_K, np.cumsum([len(at) for at in places])[:-1]), strict=True
        ):
            answer[at] = found
    weight, positions = sum(each.target_weight for each in counts), sum(each.positions for each in counts)
    return [StepTotals(weight, positions, distinct, answer, spare_X) for answer in answers]
