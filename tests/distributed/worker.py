"""A small group of ranks: each trains the runs named in a JSON file, one after another.

Ranks are forked after the imports and before anything has run, so that a group costs the imports of one process.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from intrr_rec.evaluation import evaluator
from intrr_rec.training.trainer import train
from tests import tiny


def run_rank(jobs: list[dict], rank: int, world_size: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    for job in jobs:
        os.environ["MASTER_PORT"] = str(job["port"])
        line = tiny.Line(*(Path(path) for path in job["line"]))
        # Of runs with a dense head each rank keeps its share of the catalogue's tokens, of others all.
        evaluator.GATHERED_ITEMS = 1 if "model.dense.weight=1" in job["overrides"] else 1 << 17
        init_from = Path(job["init_from"]) if job["init_from"] else None
        train(tiny.recipe(*job["overrides"]), **line.inputs(), out=Path(job["out"]), init_from=init_from)


def main(jobs_file: str, world_size: int) -> int:
    fork = multiprocessing.get_context("fork")
    jobs = json.loads(Path(jobs_file).read_text())
    ranks = [fork.Process(target=run_rank, args=(jobs, rank, world_size)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return sum(process.exitcode != 0 for process in ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
