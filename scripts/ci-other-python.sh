#!/usr/bin/env bash
# Runs the fast suite on one of the other versions of Python that the README names, in turns: three days of eight, so that most
# runs take the time of one version only. On a machine without that version it says so and does nothing.
#
#   MINOR  which one: 10, 12 or 13 (default: by the day of the year)
set -euo pipefail
cd "$(dirname "$0")/.."

turns=(10 "" 12 "" 13 "" "" "")
minor=${MINOR:-${turns[$((10#$(date +%j) % 8))]}}
if [ -z "$minor" ]; then
  echo "ci-other-python: no other version today"
  exit 0
fi
for python in "$HOME"/.pyenv/versions/3."$minor".*/bin/python "$(command -v "python3.$minor" || true)"; do
  if [ -n "$python" ] && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    git clone --quiet . "$copy/clone"
    make -C "$copy/clone" test PYTHON="$python"
    exit
  fi
done
echo "ci-other-python: Python 3.$minor is not on this machine"
