"""What serving a bundle costs beside another one: the time of single requests, taken in turn, and bytes.

Shape suffixes: R requests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.mapped_users import map_users
from intrr_rec.io.formats.records import LARGEST
from intrr_rec.io.manifest import MANIFEST, Manifest
from intrr_rec.io.stores.storage import Folder, Location
from intrr_rec.promotion.contenders import BundleContender
from intrr_rec.promotion.judge import Costs

WARM_UP = 5  # requests that are not counted
K = 10


def bundle_bytes(place: Location) -> int:
    """Bytes of all files of a bundle."""
    folder = Folder.at(place)
    text = folder.read(MANIFEST, LARGEST)
    sizes = folder.version(text).names()
    return sum(sizes[name][0] for name in Manifest.parse(text, place, "bundle").files)


def measure_costs(places: Sequence[Location], dataset: Dataset, requests: int | None) -> Costs:
    """Costs of two bundles.

    Args:
        places: of the candidate and of the current one.
        dataset: whose test users ask.
        requests: how many are measured; None measures no times.
    """
    sizes = bundle_bytes(places[0]), bundle_bytes(places[1])
    if requests is None:
        return Costs(None, None, sizes)
    bundles = [BundleContender(place) for place in places]
    asked = [_requests(bundle, dataset, requests + WARM_UP) for bundle in bundles]
    ms_2R: tuple[list[float], list[float]] = ([], [])
    for place in range(requests + WARM_UP):
        for side, bundle in enumerate(bundles):
            history, times = asked[side][place % len(asked[side])]
            k = min(K, bundle.beam)
            started = time.perf_counter()
            bundle.recommender.recommend([history], k, bundle.beam, times=[times])
            if place >= WARM_UP:
                ms_2R[side].append(1e3 * (time.perf_counter() - started))
    median, p95 = ((float(np.quantile(ms_2R[0], q)), float(np.quantile(ms_2R[1], q))) for q in (0.5, 0.95))
    return Costs(median, p95, sizes)


def _requests(bundle: BundleContender, dataset: Dataset, number: int) -> list[tuple[list[int], list[int]]]:
    """Histories and times of the first test users, as the bundle knows them."""
    users_T, event_T = (each[:number] for each in dataset.targets("test"))
    users = map_users(dataset, users_T, event_T, bundle.places(dataset))
    spans = [slice(int(a), int(b)) for a, b in zip(users.offsets, users.offsets[1:], strict=False)]
    times_E = np.zeros(len(users.items_E), np.int64) if users.timestamps_E is None else users.timestamps_E
    return [(users.items_E[span][:-1].tolist(), times_E[span].tolist()) for span in spans]
