"""Resolve pyproject.toml into the locks of requirements/, with the hashes of every file a package index serves for them.

Needs the `uv` command (`pip install uv`). Run from the repository root after changing a dependency, then look at the diff:

    python scripts/lock.py

Releases already locked are kept while they satisfy pyproject.toml; delete a line to have it resolved anew. torch, fbgemm
and torchrec move together: they are named here, in TRIPLE. torch has no hash: docs/dependencies.md says why.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
EXTRAS = ("dev", "embed", "spark", "browser", "store", "mlflow", "wandb", "tune")
TORCH, TRIPLE = "torch==2.13.0", ("torchrec==1.8.0", "fbgemm-gpu==1.8.0", "fbgemm-gpu-cpu==1.8.0")
CUDA_LIBRARIES = ("cuda-", "nvidia-", "triton==")
# What `environments` in pyproject.toml already promises, and what requires-python already says.
IMPLIED = re.compile(
    r"(platform_machine|platform_python_implementation|sys_platform) == '\w+'|python_full_version < '3\.1[4-9]'"
)
INSTALL = "pip install --no-deps --require-hashes -r"
HEADER = f"# Written by scripts/lock.py from pyproject.toml; installed with `{INSTALL}`.\n"
Lock = dict[str, str]  # a requirement with its marker → the lines of its hashes


def main() -> None:
    """Write the locks."""
    base = _resolve(["common", "cuda-libraries"], [TORCH, *TRIPLE[:2]], "--extra", "kubernetes")
    libraries = {line: hashes for line, hashes in base.items() if line.startswith(CUDA_LIBRARIES)}
    common = {
        line: hashes
        for line, hashes in base.items()
        if line not in libraries and not line.startswith(("torch==", "torchrec==", "fbgemm-gpu"))
    }
    locked = ["common", "cuda-libraries", "dev"]
    for extra in EXTRAS:
        words = ["--extra", "kubernetes", "--extra", extra]
        extended = _resolve([*locked, extra], [TORCH, *TRIPLE[:2]], *words)
        if moved := [line for line in base if line not in extended]:
            raise SystemExit(f"the extra '{extra}' would change what is locked without it: {', '.join(moved)}")
        own = {line: hashes for line, hashes in extended.items() if line not in base}
        if extra != "dev":
            dev = _parse((FOLDER / "dev.txt").read_text())
            own = {line: hashes for line, hashes in own.items() if line not in dev}
        _write(extra, own)
    _write("common", common)
    _write("cuda-libraries", libraries)
    triple = _hashes(TRIPLE)
    for stack, fbgemm, also in (("cpu", TRIPLE[2], ""), ("cuda", TRIPLE[1], "-r cuda-libraries.txt\n")):
        pins = {line: triple[line] for line in (fbgemm, TRIPLE[0])}
        _write(stack, pins, f"# After torch.txt.\n-r common.txt\n{also}")
    (FOLDER / "torch.txt").write_text(
        f'# Written by scripts/lock.py. Without hashes: docs/dependencies.md, "torch on a CPU".\n{TORCH}\n'
    )
    triton = next(line for line in libraries if line.startswith("triton=="))
    _write("kernels", {triton: libraries[triton]})


def _resolve(locked: list[str], pins: list[str], *words: str) -> Lock:
    """A new lock that keeps what `locked` pins wherever it may."""
    with tempfile.TemporaryDirectory() as scratch:
        named = Path(scratch, "triple.in")
        named.write_text("\n".join(pins) + "\n")
        resolved = Path(scratch, "resolved.txt")
        paths = [FOLDER / f"{name}.txt" for name in locked]
        resolved.write_text("".join(path.read_text() for path in paths if path.exists()))
        command = "uv pip compile pyproject.toml --universal --python-version 3.10 --no-header --no-annotate --generate-hashes"
        subprocess.run([*command.split(), *words, named, "--quiet", "--output-file", resolved], cwd=ROOT, check=True)
        return _parse(resolved.read_text())


def _hashes(requirements: tuple[str, ...]) -> Lock:
    """The hashes of exact releases, without what they depend on."""
    found: Lock = {}
    for requirement in requirements:
        command = (
            "uv pip compile - --universal --python-version 3.10 --no-deps --no-header --no-annotate --generate-hashes"
        )
        done = subprocess.run(command.split(), input=requirement, capture_output=True, text=True, cwd=ROOT, check=True)
        found |= _parse(done.stdout)
    return found


def _parse(text: str) -> Lock:
    lock: Lock = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("    --hash"):
            lock[current] += "\n" + line.rstrip(" \\")
        elif line and not line.startswith(("#", "-", " ")):
            current = _plain(line.rstrip(" \\"))
            lock[current] = ""
    return lock


def _write(name: str, lock: Lock, above: str = "") -> None:
    entries = [" \\\n".join([line, *hashes.strip("\n").splitlines()]) for line, hashes in lock.items()]
    (FOLDER / f"{name}.txt").write_text(HEADER + above + "\n".join(entries) + "\n")


def _plain(line: str) -> str:
    """A requirement without the markers that hold on every machine the locks are for."""
    requirement, _, marker = line.partition(";")
    clauses = [clause for clause in marker.strip().split(" and ") if clause and not IMPLIED.fullmatch(clause)]
    return f"{requirement.strip()}; {' and '.join(clauses)}" if clauses else requirement.strip()


if __name__ == "__main__":
    main()
