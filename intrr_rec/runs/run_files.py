"""The run folder: settings, inputs, figures and results of one training run.

config.yaml      the fully resolved recipe          metrics.jsonl   one object a line, a figure a key
run.json         inputs and their hashes            tensorboard/    the same figures
plan.txt, .json  the sharding plan and its cost     checkpoints/    the newest (step-00001234), and best
results.json     metrics of the best checkpoint     inspection.json, recommendations/   what it recommends
ranks/           each user's rank of the held-out item
"""

from __future__ import annotations

from pathlib import Path

from intrr_rec.io.artefact import COMPLETE, file_hash

CONFIG, INPUTS, METRICS = "config.yaml", "run.json", "metrics.jsonl"
PLAN, PLAN_FIGURES = "plan.txt", "plan.json"
RESULTS, INSPECTION = "results.json", "inspection.json"
RECOMMENDATIONS, RANKS, CHECKPOINTS = "recommendations", "ranks", "checkpoints"
NO_CHECKPOINT = "none"  # in results.json, of a kind of model that is not trained
BEST = "best"  # among the checkpoints


def weights_hash(run: Path, checkpoint: str = BEST) -> str:
    """What tells a checkpoint's weights from any others: the hash of its list of files and their hashes; of a kind of model
    that is not trained, that of the record of the run's inputs."""
    listed = run / CHECKPOINTS / checkpoint / COMPLETE
    return file_hash(listed if listed.is_file() else run / INPUTS)
