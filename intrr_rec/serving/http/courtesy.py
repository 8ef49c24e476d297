"""A thread that lets another go first, operation by operation of torch.

Both threads need Python's interpreter, which is given to them in turns. A server that answers for three quarters of its time
would answer late for as long as it takes to read a bundle anew, four times over: what waits must be caught up with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

LONGEST_SECONDS = 0.005  # so that a thread is not kept waiting for ever by one that never rests


class GiveWay(TorchFunctionMode):
    """While it is entered, each operation of torch in this thread waits until another thread is idle, but not for long.

    Args:
        idle: set while the other thread has nothing to do.
    """

    def __init__(self, idle: threading.Event) -> None:
        super().__init__()
        self._idle = idle

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Wait, then call the operation."""
        self._idle.wait(LONGEST_SECONDS)
        return func(*args, **(kwargs or {}))
