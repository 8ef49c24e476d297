"""Stopping when told: SIGTERM (a scheduler wants its machine back) and SIGINT (Ctrl-C) end a run saved, at its next step.

The signals are read from a pipe by a thread, so that a second one ends the process even while a rank waits for its peers.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import TracebackType

import torch

from intrr_rec.distributed.world import World

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}  # 75 is EX_TEMPFAIL of sysexits.h: try again
CHECK_EVERY = 8
ECHO_SECONDS = 1.0


class StopSignals:
    """Takes note of the signals within its block, on the main thread; a second one ends the process at once.

    A launcher and a scheduler may both pass on the same signal: what comes within a second of the first is its echo.

    Args:
        world: this rank among its peers.
    """

    def __init__(self, world: World) -> None:
        self.world = world.aside() if world.size > 1 else world  # on CPUs, so that no device is waited for
        self._asked: signal.Signals | None = None

    def due(self, step: int) -> bool:
        """Whether ranks look around at this step: always where there is one rank, else every few steps."""
        return self.world.size == 1 or step % CHECK_EVERY == 0

    def agreed(self) -> signal.Signals | None:
        """The signal that any rank has got, the same on every rank, all of which call this at the same point."""
        if self.world.size == 1:
            return self._asked
        heard = self.world.sum(torch.tensor([self._asked == number for number in EXIT_CODES], dtype=torch.int64))
        return next((number for number, ranks in zip(EXIT_CODES, heard.tolist(), strict=True) if ranks), None)

    def any_rank(self, met: bool) -> bool:
        """Whether any rank has met something; all ranks call this at the same point."""
        return met if self.world.size == 1 else bool(self.world.sum(torch.tensor(int(met))))

    def __enter__(self) -> StopSignals:
        self._handlers = {}
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in EXIT_CODES}
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handlers:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._pipe[1], b"\0")
        self._watcher.join()
        for end in self._pipe:
            os.close(end)

    def _watch(self) -> None:
        first = 0.0
        while True:
            numbers = os.read(self._pipe[0], 64)
            now = time.monotonic()
            for number in numbers:  # what came together has one time, however late the interpreter lets us look
                if not number:
                    return
                if number not in EXIT_CODES:
                    continue
                if self._asked is None:
                    self._asked, first = signal.Signals(number), now
                elif now - first > ECHO_SECONDS:
                    os.write(2, b"intrr: stopped at once; the newest checkpoint stands\n")
                    os._exit(EXIT_CODES[signal.Signals(number)])
