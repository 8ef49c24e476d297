"""What this machine can do at best: the yardstick beside every figure."""

from __future__ import annotations

import logging
import platform
import resource
import statistics
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

SIZE = 2048
REPEATS = 15


class Gemm:
    """A large matrix product, to be timed again and again beside what it is the yardstick of."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32, size: int = SIZE) -> None:
        self.device = device
        self.a, self.b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        self.rate()

    def rate(self) -> float:
        """FLOP/s of one product with the threads this process has."""
        synchronize(self.device)
        started = time.perf_counter()
        torch.mm(self.a, self.b)
        synchronize(self.device)
        return 2 * len(self.a) ** 3 / (time.perf_counter() - started)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch within the block, or within a function that this decorates; after it, as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gemm_peak(device: torch.device) -> float:
    """FLOP/s of a large fp32 matrix product: the median of a few."""
    gemm = Gemm(device)
    return statistics.median([gemm.rate() for _ in range(REPEATS + 3)][3:])


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine in words: processor or GPU, threads, versions, and that of this code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "os": platform.platform(),
        "code": code_version(),
    }


def code_version() -> str:
    """The release of this package and, where it lies in a git checkout, its commit: `0.1.0 (1a2b3c4d5e)`; `+` marks edits."""
    try:
        release = version("intrr_rec")
    except PackageNotFoundError:
        release = "not installed"
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # installed: a repository further up would be another's
        return release
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=10"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return release
    return f"{release} ({found.stdout.strip()})" if found.returncode == 0 else release


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory_gb(device: torch.device) -> float:
    """Memory held now: of the GPU by tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def peak_memory_gb(device: torch.device) -> float:
    """The most memory held so far: of the GPU by tensors, or of this process.

    Linux counts what a parent held into a child's `ru_maxrss`, so the mark of this address space is read instead.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def synchronize(device: torch.device) -> None:
    """Wait for what the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quiet(threads: int) -> None:
    """Prepare a process of its own: deprecations of torch and TorchRec are not the user's to fix; so many threads for torch."""
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("torch").setLevel(logging.ERROR)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
