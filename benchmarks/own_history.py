"""What needs no catalogue: a user's own history, ranked by how often, or how lately, an item occurs. Usage: own_history.py DATASET ..."""

import sys
from collections import Counter
from pathlib import Path

import torch

from intrr_rec.data.dataset import Dataset
from intrr_rec.evaluation.metrics import RECALL_AT, as_means, metrics_by_user, target_rank

for path in map(Path, sys.argv[1:]):
    dataset = Dataset.open(path)
    users, events = dataset.targets("test")
    for way in ("often", "lately"):
        ranked = torch.full((len(users), max(RECALL_AT)), -1)
        for row, (user, event) in enumerate(zip(users, events, strict=True)):
            history = dataset.items_E[dataset.offsets[user] : event].tolist()[::-1]
            count, newest = Counter(history), {item: -place for place, item in reversed(list(enumerate(history)))}
            best = sorted(newest, key=lambda item: (way == "often" and count[item], newest[item]), reverse=True)
            ranked[row, : len(best)] = torch.tensor(best)[: ranked.shape[1]]
        target = torch.from_numpy(dataset.items_E[events])
        means = as_means(metrics_by_user(target_rank(ranked, target)).sum(0), len(users))
        print(f"{path} {way}: Recall@10 {means['recall@10']:.4f} NDCG@10 {means['ndcg@10']:.4f}")
