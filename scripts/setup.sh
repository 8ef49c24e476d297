#!/usr/bin/env bash
# Make .venv hold the pinned stack and this package. `make` runs it when a lock or pyproject.toml is newer than .venv.
#
#   PYTHON  interpreter for the environment (default: python3 if it is one of 3.10-3.13, else the newest of those found)
#   STACK   cpu or cuda (default: cuda where nvidia-smi works)
#   TORCH_INDEX_URL  where torch alone is taken from (default: where pip takes all else from)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 2; }

suitable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  # python3 first: it is the one this machine's pip and wheel settings were made for.
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if suitable "$candidate"; then echo "$candidate"; return; fi
  done
  fail "no Python 3.10-3.13 found (python3 is $(python3 --version 2>&1 || true)); install one, or name it: make setup PYTHON=/path/to/python"
}

if [ -n "${PYTHON:-}" ]; then
  suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10-3.13 ($("$PYTHON" --version 2>&1 || true)); name another"
else
  PYTHON=$(find_python)
fi
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "$PYTHON has no venv module; on Debian and Ubuntu: apt-get install python3-venv"

if [ -z "${STACK:-}" ]; then
  if nvidia-smi >/dev/null 2>&1; then STACK=cuda why="nvidia-smi works"; else STACK=cpu why="no NVIDIA driver answers"; fi
fi
[[ $STACK = cpu || $STACK = cuda ]] || fail "STACK=$STACK is unknown; say cpu or cuda"
say "stack: $STACK (${why:-as asked}), Python: $("$PYTHON" -c 'import platform, sys; print(platform.python_version(), sys.executable)')"

# The CPU and CUDA builds of fbgemm share one folder, so a change of stack means a new environment. One that works and was
# not made here is kept and added to.
wanted="$STACK $("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
made_for=$(cat .venv/stack 2>/dev/null || true)
if ! suitable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "creating .venv"
  "$PYTHON" -m venv --clear .venv
elif [ -n "$made_for" ] && [ "$made_for" != "$wanted" ]; then
  say "creating .venv anew: it was made for $made_for, now $wanted"
  "$PYTHON" -m venv --clear .venv
fi
echo "$wanted" >.venv/stack

install() {
  .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps "$@" >>.venv/setup.log 2>&1 ||
    { tail -n 15 .venv/setup.log >&2; fail "pip install --no-deps $* failed; see above and .venv/setup.log"; }
}
imports_torch() { .venv/bin/python -c 'import torch' 2>>.venv/setup.log; }

say "installing requirements/$STACK.txt: some minutes the first time (details: .venv/setup.log)"
# --index-url, not an extra index beside the usual one: a name that only one of two indexes should serve could come from either.
install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r requirements/torch.txt
install --require-hashes -r "requirements/$STACK.txt"
install --require-hashes -r requirements/dev.txt
if ! imports_torch && [ "$STACK" = cpu ]; then
  # The default index serves one torch for Linux, built for CUDA; it cannot start without CUDA's libraries, driver or not.
  say "this torch is a CUDA build and needs CUDA's libraries to start, even on a CPU: installing them, about 3 GB"
  say "to avoid that, set TORCH_INDEX_URL to PyTorch's index of CPU wheels, remove .venv and run again"
  install --require-hashes -r requirements/cuda-libraries.txt
fi
imports_torch || fail "torch does not start: $(.venv/bin/python -c 'import torch' 2>&1 | tail -n 1)"

install --no-build-isolation --editable .
say "ready: $(.venv/bin/python -c 'import torch; print("torch", torch.__version__)'), $(du -sh .venv | cut -f1) in .venv"
