"""`python -m intrr_rec.install`: the locked packages that intrr_rec runs on, into the Python that runs this.

    pip install --no-deps intrr_rec-0.1.0-py3-none-any.whl && python -m intrr_rec.install

torchrec's metadata names the CUDA build of fbgemm, which cannot be imported without a driver. So the closure comes from a lock,
without resolving and with hashes: for CUDA where `nvidia-smi` works, else for the CPU.

    python -m intrr_rec.install [cpu|cuda] [EXTRA]... [--print]     --print: only the path of the lock, beside which torch.txt lies

An extra is what some verbs need on top, such as `embed` for `intrr embed`.

torch on a CPU: the default index serves a CUDA build alone. Set `TORCH_INDEX_URL` to the address that the PyTorch site names
for CPU wheels, and torch alone is taken from there, and from nowhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from intrr_rec.errors import ConfigError
from intrr_rec.io.shipped import FOLDER

STACKS = ("cpu", "cuda")
EXTRAS = ("embed", "spark", "mlflow", "wandb", "tune")


def main() -> int:
    """Install; 2 after a line that says what failed."""
    words = [word for word in sys.argv[1:] if word != "--print"]
    stacks, extras = [word for word in words if word in STACKS], [word for word in words if word not in STACKS]
    if len(stacks) > 1 or not set(extras) <= set(EXTRAS):
        print(f"intrr_rec.install: say cpu or cuda, or nothing; then any of {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    stack = stacks[0] if stacks else find_stack()
    lock = FOLDER / "requirements" / f"{stack}.txt"
    if "--print" in sys.argv:
        print(lock)
        return 0
    try:
        install(stack, lock)
        for extra in extras:
            _pip("--require-hashes", "-r", str(lock.parent / f"{extra}.txt"))
    except ConfigError as error:
        print(f"intrr_rec.install: {error}", file=sys.stderr)
        return 2
    return 0


def find_stack() -> str:
    """`cuda` where a driver answers."""
    smi = shutil.which("nvidia-smi")
    works = smi is not None and subprocess.run([smi], capture_output=True).returncode == 0
    return "cuda" if works else "cpu"


def install(stack: str, lock: Path) -> None:
    """Install a lock; on a CPU, CUDA's libraries too where the torch that came does not start without them.

    Raises:
        ConfigError: pip failed, or torch does not start.
    """
    print(f"intrr_rec.install: {stack}, from {lock}", flush=True)
    index = os.environ.get("TORCH_INDEX_URL")
    _pip(*(("--index-url", index) if index else ()), "-r", str(lock.parent / "torch.txt"))
    _pip("--require-hashes", "-r", str(lock))
    if stack == "cpu" and not _starts():
        print(
            "intrr_rec.install: this torch is a CUDA build: installing CUDA's libraries, about 3 GB; TORCH_INDEX_URL avoids it"
        )
        _pip("--require-hashes", "-r", str(lock.parent / "cuda-libraries.txt"))
    if not _starts():
        raise ConfigError("torch does not start; `python -c 'import torch'` says why")


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", *words]
    if subprocess.run(command).returncode:
        raise ConfigError(f"`{' '.join(command)}` failed")


def _starts() -> bool:
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
