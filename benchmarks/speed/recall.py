"""`python -m benchmarks.speed recall`: how much of the exhaustive ranking a beam finds, by its width.

Shape suffixes: B users, I items, W beams, K places compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from intrr_rec.data.dataset import Dataset
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.exhaustive import exhaustive_scores
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.recommender import Recommender

TOP = (10, 20)


@torch.no_grad()
def bench_recall(
    bundle_path: Path, dataset_path: Path, *, beams: Sequence[int], users: int, seed: int, out: Path
) -> dict[str, Any]:
    """For users drawn at random, the share of the K items of the highest log P that the beam's K first items hold.

    The ranking is that of the paths, without the dense head. Prints a table and writes the figures to `out` (JSON): `recall`
    maps K to W to the mean over users; None where W < K.

    Raises:
        ArtefactError: no bundle, no dataset, or one is not of the other.
    """
    bundle, dataset = Bundle.load(bundle_path), Dataset.open(dataset_path)
    if bundle.manifest.parents["dataset"] != dataset.manifest.content_hash:
        raise ArtefactError(f"{dataset_path}: is not the dataset that {bundle_path} was made for")
    recommender, model = Recommender(bundle), bundle.model
    ranker = model.ranker
    normalize = bundle.settings.evaluate.normalize
    users_T, targets_T = dataset.targets("test")
    chosen = np.random.default_rng(seed).permutation(len(users_T))[:users]
    spans = [slice(int(dataset.offsets[users_T[n]]), int(targets_T[n])) for n in chosen]
    histories = [dataset.items_E[span].tolist() for span in spans]
    times = None
    if dataset.timestamps_E is not None:
        times = [dataset.timestamps_E[span.start : span.stop + 1].tolist() for span in spans]
    state_BD = recommender.states(histories, times)
    score_BI = exhaustive_scores(model.ran, model.codebooks, bundle.codes_IL.long(), state_BD, normalize)
    best_BK = score_BI.topk(max(TOP), dim=1).indices
    recall: dict[str, dict[str, float | None]] = {str(k): {} for k in TOP}
    for beam in beams:
        items_BW, _ = beam_search(ranker.ran, ranker.trie, state_BD, beam, normalize)
        for k in TOP:
            found_BK = (best_BK[:, :k, None] == items_BW[:, None, :k]).any(-1)
            recall[str(k)][str(beam)] = float(found_BK.double().mean()) if beam >= k else None
    figures = {"bundle": bundle.manifest.content_hash, "items": bundle.n_items, "users": len(chosen), "seed": seed}
    figures |= {"normalize": normalize, "recall": recall}
    write_json(out, figures)
    table = Table(
        "", *(f"W = {beam}" for beam in beams), title=f"recall against exhaustive scoring, {len(chosen)} users"
    )
    for k in TOP:
        shares = recall[str(k)].values()
        table.add_row(f"first {k}", *("–" if share is None else f"{share:.4f}" for share in shares))
    Console().print(table)
    return figures
