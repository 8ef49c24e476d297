"""`python -m benchmarks.speed.two_checkouts --before PATH`: training steps of another commit and of this one, in turns.

Each runs in a process of its own from its own checkout, and takes its steps as training does, loader included; processor time counts,
so that both are as slow on a shared machine. The dataset must be one that both can read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

WARM_UP = 3
WORKER = """
import json, logging, sys, tempfile, time
from itertools import count
from pathlib import Path
import torch
from intrr_rec.config import load_recipe
from intrr_rec.distributed.world import join_world
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
logging.disable(logging.WARNING)
torch.set_num_threads(1)
dataset, ids, *words = sys.argv[1:]
inputs = open_inputs(load_recipe(None, words), Path(dataset), Path(ids), None)
with join_world() as world, tempfile.TemporaryDirectory() as folder:
    run = Trainer(inputs, Path(folder) / "run", world)
    run.parallel.module.train()
    steps = (parts for epoch in count(1) for parts in run.loader.epoch(epoch))
    for line in sys.stdin:
        started = time.process_time()
        for _ in range(int(line)):
            parts = next(steps)
            losses = run.step(*(parts if isinstance(parts, tuple) else (parts,)))
            run.state["step"] += 1
            if not hasattr(run.stop, "due") or run.stop.due(run.state["step"]):
                run._heed()
        losses["loss"].item()
        print(json.dumps(time.process_time() - started), flush=True)
"""


def main() -> None:
    """Measure and print milliseconds a step, and the ratio of each round."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("words", nargs="*", help="settings of the recipe")
    asked.add_argument("--before", type=Path, required=True, help="checkout of the other commit")
    asked.add_argument("--dataset", type=Path, required=True)
    asked.add_argument("--semantic-ids", type=Path, required=True)
    asked.add_argument("--rounds", type=int, default=6)
    asked.add_argument("--steps", type=int, default=11, help="of a round")
    options = asked.parse_args()
    inputs = [str(options.dataset.absolute()), str(options.semantic_ids.absolute()), *options.words]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, *inputs],
            cwd=checkout,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for checkout in (options.before, Path(__file__).parents[2])
    ]

    def seconds(worker: subprocess.Popen[str], steps: int) -> float:
        assert worker.stdin is not None and worker.stdout is not None
        print(steps, file=worker.stdin, flush=True)
        return float(json.loads(worker.stdout.readline()))

    for worker in workers:
        seconds(worker, WARM_UP)
    rounds = []
    for number in range(options.rounds):
        order = (0, 1) if number % 2 else (1, 0)
        found = {place: seconds(workers[place], options.steps) for place in order}
        rounds.append((found[0], found[1]))
    for worker in workers:
        worker.communicate()
    for name, spent in zip(("before", "now"), zip(*rounds, strict=True), strict=True):
        print(f"{name}: {1e3 * statistics.median(spent) / options.steps:.1f} ms of the processor a step")
    ratios = sorted(before / now for before, now in rounds)
    print(f"before / now: {statistics.median(ratios):.3f}", [round(ratio, 3) for ratio in ratios])


if __name__ == "__main__":
    main()
