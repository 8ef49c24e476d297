"""The command `intrr`, also as `python -m intrr_rec`: the form that torchrun and TorchX launch."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from intrr_rec.errors import INTERRUPTED

HERE = Path(__file__).parent
VERBS = (f"{HERE / 'cli'}{os.sep}", str(HERE / "__main__.py"))
IMPORTING = "<frozen importlib._bootstrap>"
AGAIN_AFTER = 0.05  # seconds


def main() -> None:
    """Run the command line; Ctrl-C is one line from the first moment on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a launcher has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from intrr_rec.cli import main as run

        run()
    except KeyboardInterrupt:
        print(f"intrr: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    # Packages that try their imports take an interrupt within one for a missing module, and fail later for want of it.
    importer = None
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            importer = frame.f_back
        frame = frame.f_back
    if importer is None:
        raise KeyboardInterrupt
    if importer.f_code.co_filename.startswith(VERBS):  # a verb's own imports: it has begun nothing
        print(f"intrr: {INTERRUPTED}", file=sys.stderr, flush=True)
        os._exit(130)
    threading.Timer(AGAIN_AFTER, os.kill, (os.getpid(), signal.SIGINT)).start()


if __name__ == "__main__":
    main()
