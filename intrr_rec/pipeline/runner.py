"""TorchX's runner, for verbs that submit jobs and wait for them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from torchx.runner import Runner, get_runner
from torchx.schedulers.local_scheduler import SignalException

from intrr_rec.errors import Stopped

TOLD = signal.SIGTERM, signal.SIGINT


@contextmanager
def own_runner() -> Iterator[Runner]:
    """A runner whose jobs on this machine find the `torchrun` of this environment, also where it was not activated.

    TorchX's scheduler of this machine takes over both signals and raises an error of its own for them. They end the verb as
    any other here. It ends its jobs with it, which save themselves; those of a cluster go on.

    Raises:
        Stopped: SIGTERM came.
        KeyboardInterrupt: SIGINT came.
    """
    _find_own_programs()
    is_main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    before = {number: signal.getsignal(number) for number in TOLD if is_main}
    try:
        if is_main:
            signal.signal(signal.SIGTERM, _stop)
        with get_runner() as runner:
            try:
                yield runner
            except SignalException as error:
                if error.sigval == signal.SIGINT:
                    raise KeyboardInterrupt from None
                _stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int = signal.SIGTERM, _frame: FrameType | None = None) -> NoReturn:
    raise Stopped(
        "SIGTERM: stopped; jobs on this machine were ended too, those of a cluster go on; the same command goes on from there",
        75,
    ) from None


def _find_own_programs() -> None:
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if own not in path.split(os.pathsep):
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"
