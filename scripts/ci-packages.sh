#!/usr/bin/env bash
# Installs the system programs that some tests drive (each such test is skipped, with its reason, where its program is
# absent). Asks the package manager only for what is missing, so a second run costs nothing; a machine without apt or
# without root keeps what it has.
set -uo pipefail

# program:Debian package that brings it
WANTED=(
  slurmctld:slurm-wlm
  munged:munge
  chromium:chromium
  java:default-jre-headless
  ip:iproute2
)

missing=()
for pair in "${WANTED[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

echo "ci-packages: missing ${missing[*]}"
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "ci-packages: not root on a Debian machine; the tests that need them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null; then
  echo "ci-packages: apt-get failed; the tests that need ${missing[*]} are skipped" >&2
fi
