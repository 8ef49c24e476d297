"""What a run folder says of its run, without timings."""

import json

import pyarrow.parquet as pq

from intrr_rec.runs.metrics_file import metric_lines


def lines(run, split=None):
    records = metric_lines(run / "metrics.jsonl")
    timing = ("seconds", "users_per_second")
    return [{k: v for k, v in r.items() if k not in timing} for r in records if split in (None, r["split"])]


def results(run):
    found = json.loads((run / "results.json").read_text())
    return {
        key: found[key] for key in ("valid", "test", "slices", "beyond_accuracy", "baseline", "epochs", "best_epoch")
    }


def recommendations(run):
    return pq.read_table(run / "recommendations").sort_by("user_id").to_pylist()


def weights(run):
    """Hashes of the tensors in the best checkpoint and in the newest one, optimizer included, by its step."""
    found = {}
    for folder in [run / "checkpoints/best", max((run / "checkpoints").glob("step-*"))]:
        files = json.loads((folder / "complete.json").read_text())["files"]
        found[folder.name] = {name: digest for name, digest in files.items() if name.endswith(".distcp")}
    return found


def story(run):
    """All of it, to be compared as a whole."""
    return {"lines": lines(run), "results": results(run), "weights": weights(run)}
