"""The run folder: settings, inputs, figures and results of one training run.

config.yaml      the fully resolved recipe          metrics.jsonl   one object a line, a figure a key
run.json         inputs and their hashes            tensorboard/    the same figures
plan.txt, .json  the sharding plan and its cost     checkpoints/    the newest (step-00001234), and best
results.json     metrics of the best checkpoint     inspection.json, recommendations/   what it recommends
ranks/           each user's rank of the held-out item   tracker.json    id of the run in a tracker
"""

from __future__ import annotations

from pathlib import Path

from intrr_rec.io.manifest import COMPLETE
from intrr_rec.io.stores.mirror import origin
from intrr_rec.io.stores.storage import Folder, Location, below

CONFIG, INPUTS, METRICS = "config.yaml", "run.json", "metrics.jsonl"
PLAN, PLAN_FIGURES = "plan.txt", "plan.json"
TRACKER = "tracker.json"
RESULTS, INSPECTION = "results.json", "inspection.json"
RECOMMENDATIONS, RANKS, CHECKPOINTS = "recommendations", "ranks", "checkpoints"
NO_CHECKPOINT = "none"  # in results.json, of a kind of model that is not trained
LISTED = (CONFIG, INPUTS, METRICS, RESULTS)  # what `intrr runs` reads
BEST = "best"  # among the checkpoints


def checkpoints_of(run: Path) -> Location:
    """The folder of a run's checkpoints: in a store, where the run lies there."""
    return below(origin(run), CHECKPOINTS)


def checkpoint_names(run: Path) -> list[str]:
    """The names of a run's checkpoints. A folder in a store is one when it has its list of files, which comes last.

    Raises:
        ArtefactError: the store cannot be asked.
    """
    folder = Folder.at(checkpoints_of(run))
    if not folder.is_remote:
        return folder.folders()
    split = [name.split("/") for name in folder.names()]
    return [parts[0] for parts in split if len(parts) == 2 and parts[1] == COMPLETE]


def weights_hash(run: Path, checkpoint: str = BEST) -> str:
    """What tells a checkpoint's weights from any others: the hash of its list of files and their hashes; of a kind of model
    that is not trained, that of the record of the run's inputs."""
    folder = Folder.at(below(checkpoints_of(run), checkpoint))
    return folder.hash(COMPLETE) if folder.has(COMPLETE) else Folder.at(run).hash(INPUTS)
