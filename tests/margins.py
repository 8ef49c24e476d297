"""How far inside its bounds does training end? `python -m tests.margins` runs the tests marked `learns` over and over.

Ten seeds, one and two threads, three kinds of processor (`ATEN_CPU_CAPABILITY`): an hour or two. The table names the mean, the
standard deviation and the worst figure of each bound, and the margin in standard deviations; less than three is a failure,
and so is a run outside its bound. What the processor lacks is left out, and said. `-n 2` among the words halves the time.

    python -m tests.margins [--seeds 10] [--threads 1 2] [--capabilities default avx2 avx512] [--keep FILE] [pytest words]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.learned import FIGURES, SEEDS

CAPABILITIES = ("default", "avx2", "avx512")
LEAST = 3.0  # standard deviations


def main() -> int:
    """Run, print the table; 1 where a margin is too small."""
    parser = argparse.ArgumentParser(prog="python -m tests.margins", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--capabilities", nargs="+", choices=CAPABILITIES, default=list(CAPABILITIES))
    parser.add_argument(
        "--keep", type=Path, help="where the figures go, a JSON line each; kinds found there are not run"
    )
    options, words = parser.parse_known_args()
    able = supported()
    if missing := [name for name in options.capabilities if name not in able]:
        print(f"margins: this processor lacks {', '.join(missing)}: left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        keep = options.keep or Path(scratch, "figures.jsonl")
        done = {(record["capability"], record["threads"]) for record in read(keep)}
        for threads in options.threads:
            for capability in options.capabilities:
                if capability in able and (capability, threads) not in done:
                    measure(capability, threads, options.seeds, words, keep)
        records = read(keep)
    return print_table(records)


def supported() -> list[str]:
    """The capabilities whose kernels this processor can run."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    return list(CAPABILITIES[: CAPABILITIES.index(best) + 1]) if best in CAPABILITIES else ["default"]


def measure(capability: str, threads: int, seeds: int, words: list[str], keep: Path) -> None:
    """One pass of the tests over all seeds; what they found goes to `keep` in one piece."""
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, "figures.jsonl")
        settings = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": str(threads)}
        environment = os.environ | settings | {SEEDS: str(seeds), FIGURES: str(found)}
        command = [sys.executable, "-m", "pytest", "-m", "learns", "-p", "no:cacheprovider", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(f"{capability}, {threads} threads: {done.stdout.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        kind = {"capability": capability, "threads": threads}
        with keep.open("a") as file:
            file.writelines(json.dumps(record | kind) + "\n" for record in read(found))


def read(path: Path) -> list[dict[str, Any]]:
    """The figures kept so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_table(records: list[dict[str, Any]]) -> int:
    """A line per bound, the narrowest margin first."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        key = (record["test"].removeprefix("tests/"), record["name"], record["side"], record["bound"])
        groups.setdefault(key, []).append(record["value"])
    rows = []
    for (test, name, side, bound), values in groups.items():
        mean, deviation = statistics.fmean(values), statistics.pstdev(values)
        inside = bound - mean if side == "below" else mean - bound
        worst = max(values) if side == "below" else min(values)
        margin = inside / deviation if deviation else float("inf") if inside > 0 else -float("inf")
        broken = worst >= bound if side == "below" else worst <= bound
        rows.append((margin, broken, f"{test} | {name} | {side} {bound:g}", len(values), mean, deviation, worst))
    print(
        "| test | figure | bound | runs | mean | standard deviation | worst | margin |\n|---|---|---|---|---|---|---|---|"
    )
    for margin, _, what, runs, mean, deviation, worst in sorted(rows, key=lambda row: row[0]):
        print(f"| {what} | {runs} | {mean:.4g} | {deviation:.2g} | {worst:.4g} | {margin:.1f} |")
    return int(any(margin < LEAST or broken for margin, broken, *_ in rows))


if __name__ == "__main__":
    sys.exit(main())
