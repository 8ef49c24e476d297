"""`intrr train` in real processes, a rank each, with something that goes wrong at a step of choice.

Processes are forked off one that has imported everything: a job costs its own work only.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from intrr_rec import cli
from intrr_rec.distributed import world as topology
from intrr_rec.training.trainer import Trainer
from tests import tiny
from tests.distributed.launch import free_port

SECONDS = 60
CLONE_NEWNET = 0x40000000
Fault = Callable[[Trainer], None]  # called before each step

WORDS = ("train.epochs=3", "model.hstu.dropout=0.2", "model.ran.dropout=0.2")


class Slowly:
    """Steps take a while."""

    def __call__(self, run: Trainer) -> None:
        time.sleep(0.1)


class KillRank:
    """SIGKILL of one rank in a step, while the others wait for its gradients; what was being saved is on the disk."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def __call__(self, run: Trainer) -> None:
        if run.state["step"] == self.step:
            run.checkpoints.wait()
            run.world.barrier()
        if (run.world.rank, run.state["step"]) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


class KillInSave:
    """SIGKILL of all ranks at a random moment after a save has begun, in the midst of the steps that go on meanwhile."""

    def __init__(self, save: int, seed: int, longest: float) -> None:
        self.save, self.longest = save, longest
        self.delay = random.Random(seed).uniform(0, longest)
        self.saves = 0

    def __call__(self, run: Trainer) -> None:
        if self.saves >= self.save:
            time.sleep(self.longest / 2)  # so that the run does not come to its end
        if run.state["step"]:
            return
        original = run.checkpoints.save

        def killed(state, keep, **how):
            self.saves += 1
            if self.saves == self.save:
                threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            original(state, keep, **how)

        run.checkpoints.save = killed


class FileLimit:
    """From a step on no file may grow beyond a size: the system refuses to write."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def __call__(self, run: Trainer) -> None:
        if run.state["step"] == self.step:
            run.checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


class NoSpace:
    """From a step on the disk of one rank is full, as found when files are synced."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def __call__(self, run: Trainer) -> None:
        if (run.world.rank, run.state["step"]) == (self.rank, self.step):
            run.checkpoints.wait()
            os.fsync = full


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True)
class Net:
    """A network namespace of each rank.

    Attributes:
        names: of the namespaces; a rank's network interface is called as its namespace.
        address: of the main rank.
        timeout: seconds until a silent rank is given up, in place of the job's own.
    """

    names: Sequence[str]
    address: str
    timeout: float

    def enter(self, rank: int) -> None:
        """Put this process into its namespace."""
        with open(f"/run/netns/{self.names[rank]}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        topology.TIMEOUT = timedelta(seconds=self.timeout)
        os.environ |= {"MASTER_ADDR": self.address, "GLOO_SOCKET_IFNAME": self.names[rank]}


def run_rank(
    words: Sequence[str], rank: int, size: int, port: int, log: Path, fault: Fault | None, net: Net | None
) -> None:
    """What the installed `intrr train` does under a launcher."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    if size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if net:
        net.enter(rank)
    if fault:
        original = Trainer.step

        def step(run, batch):
            fault(run)
            losses = original(run, batch)
            log.with_suffix(".steps").write_text(str(run.state["step"] + 1))
            return losses

        Trainer.step = step
    sys.argv = ["intrr", "train", *words]
    cli.main()


class Job:
    """A job of `size` ranks on a miniature line.

    Args:
        out: the run folder; logs lie beside it.
        fault: what goes wrong; None for nothing.
        net: where the ranks are; None for all of them here.
    """

    def __init__(
        self,
        line: tiny.Line,
        out: Path,
        words: Sequence[str],
        size: int = 1,
        fault: Fault | None = None,
        net: Net | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.job"])
        self.logs = [out.with_name(f"{out.name}-{time.monotonic_ns()}-{rank}.log") for rank in range(size)]
        verb = ["--dataset", line.dataset, "--semantic-ids", line.semantic_ids, "--vectors", line.vectors, "--out", out]
        settings, port = [*map(str, verb), *tiny.SMALL, *words], free_port()
        self.ranks = [
            context.Process(target=run_rank, args=(settings, rank, size, port, self.logs[rank], fault, net))
            for rank in range(size)
        ]
        for process in self.ranks:
            process.start()

    def wait_for_step(self, step: int) -> None:
        """Until the main rank has done that many steps."""
        done, deadline = self.logs[0].with_suffix(".steps"), time.monotonic() + SECONDS
        while not (done.is_file() and int(done.read_text() or 0) >= step):
            assert time.monotonic() < deadline and self.ranks[0].is_alive(), self.logs[0].read_text()
            time.sleep(0.01)

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        """Send a signal to ranks."""
        for rank in ranks:
            os.kill(self.ranks[rank].pid, number)

    def codes(self) -> list[int]:
        """Exit codes of the ranks, all of which end in time."""
        for process in self.ranks:
            process.join(SECONDS)
        hung = [rank for rank, process in enumerate(self.ranks) if process.is_alive()]
        for process in self.ranks:
            process.kill()
        assert not hung, self.logs[hung[0]].read_text()[-3000:]
        return [process.exitcode for process in self.ranks]

    def said(self, rank: int = 0) -> list[str]:
        """What the rank told the user, of its own accord."""
        return [line for line in self.logs[rank].read_text().splitlines() if line.startswith("intrr: ")]
