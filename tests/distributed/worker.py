"""A small group of ranks: each trains the runs named in a JSON file, one after another.

Ranks are forked after the imports and before anything has run, so that a group costs the imports of one process.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch.distributed as dist

from intrr_rec.evaluation import evaluator
from intrr_rec.training.trainer import train
from tests import tiny

EXCHANGES = "exchanges.txt"  # how often rank 0 took part in an all-to-all


def run_rank(jobs: list[dict], rank: int, world_size: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    exchanged, all_to_all = [0], dist.all_to_all_single

    def counting(*args, **kwargs):
        exchanged[0] += 1
        return all_to_all(*args, **kwargs)

    dist.all_to_all_single = counting
    for job in jobs:
        os.environ["MASTER_PORT"] = str(job["port"])
        line = tiny.Line(*(Path(path) for path in job["line"]))
        # Of runs with a dense head each rank keeps its share of the catalogue's tokens, of others all.
        evaluator.GATHERED_ITEMS = 1 if "model.dense.weight=1" in job["overrides"] else 1 << 17
        init_from = Path(job["init_from"]) if job["init_from"] else None
        exchanged[0] = 0
        train(tiny.recipe(*job["overrides"]), **line.inputs(), out=Path(job["out"]), init_from=init_from)
        if rank == 0:
            (Path(job["out"]) / EXCHANGES).write_text(str(exchanged[0]))


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
