"""What this machine can do at best: the yardstick beside every figure."""

from __future__ import annotations

import platform
import statistics
import time

import torch

SIZE = 2048
REPEATS = 15


def gemm_peak(device: torch.device) -> float:
    """FLOP/s of a large fp32 matrix product with the threads this process has: the median of a few runs."""
    a, b = torch.randn(SIZE, SIZE, device=device), torch.randn(SIZE, SIZE, device=device)
    seconds = []
    for _ in range(REPEATS + 3):
        _synchronize(device)
        started = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / statistics.median(seconds[3:])


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine in words: processor or GPU, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "os": platform.platform()}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
