"""Every component as a job, and what each scheduler would be handed for it: `python -m tests.cluster.specs` writes golden/.

A dry run submits nothing and asks nobody: Kubernetes and AWS Batch need no cluster for it, Slurm no controller.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from unittest.mock import patch

from torchx.runner import get_runner
from torchx.specs import AppDef

from torchx_components import jobs

GOLDEN = Path(__file__).parent / "golden"
SCHEDULERS = {
    "local_cwd": {},
    "slurm": {"partition": "main"},
    "kubernetes": {"queue": "default", "validate_spec": False},
    "aws_batch": {"queue": "default", "user": "somebody"},
}
PLACE = {
    "h": "gpu_h100_8",
    "mounts": ["type=bind", "src=/mnt/data", "dst=/data"],
    "env": {"INTRR_LOG": "DEBUG"},
    "metadata": {"team": "recs"},
}


def examples() -> dict[str, AppDef]:
    """One job of each component, with all that its verb reads."""
    ids = {"dataset": "/data/dataset", "semantic_ids": "/data/ids"}
    return {
        "prepare": jobs.prepare(
            "prepare.k_core=3",
            interactions=["/data/a.parquet", "/data/b.parquet"],
            items="/data/items",
            out="/data/dataset",
            max_retries=1,
        ),
        "embed": jobs.embed(dataset="/data/dataset", out="/data/vectors", text_column="title", h="cpu_medium"),
        "index": jobs.index(
            "index.codes=64", dataset="/data/dataset", vectors="/data/vectors", out="/data/ids", j="1x2"
        ),
        "train": jobs.train(
            "train.epochs=3", **ids, out="/data/run", config="/data/a recipe.yaml", j="2x8", max_restarts=2, **PLACE
        ),
        "evaluate": jobs.evaluate("evaluate.beam=20", run="/data/run", j="2x8", **PLACE),
        "export": jobs.export(run="/data/run", out="/data/bundle", rows="int8", **PLACE),
        "recommend": jobs.recommend(
            bundle="/data/bundle",
            out="/data/lists",
            dataset="/data/dataset",
            held_out=1,
            beam=50,
            exclude_seen=True,
            where=["brand=acme", "year=2014"],
            j="4x8",
            **PLACE,
        ),
        "promote": jobs.promote(bundle="/data/bundle", over="/data/registry", on="/data/dataset", h="cpu_medium"),
        "serve": jobs.serve("serve.max_batch=32", bundle="/data/bundle", port=8000, h="cpu_medium"),
    }


def rendered(app: AppDef, scheduler: str) -> str:
    """What the scheduler would be handed, without what differs from run to run."""
    for name in ("LOGLEVEL", "TORCHX_IMAGE"):
        os.environ.pop(name, None)
    # Ids are of 12 to 14 characters, by which lines would break elsewhere.
    with (
        warnings.catch_warnings(),
        patch("torchx.schedulers.ids.random_uint64", return_value=2**63),
        get_runner() as runner,
    ):
        warnings.simplefilter("ignore")
        text = str(runner.dryrun(app, scheduler, SCHEDULERS[scheduler]))
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "SESSION", text)
    return re.sub(rf"\b{app.name}-[a-z0-9]{{10,}}\b", f"{app.name}-ID", text).rstrip() + "\n"


def main() -> None:
    """Write the golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for scheduler in ("slurm", "kubernetes", "aws_batch"):
        for name in ("prepare", "train"):
            (GOLDEN / f"{name}-{scheduler}.txt").write_text(rendered(examples()[name], scheduler))


if __name__ == "__main__":
    main()
