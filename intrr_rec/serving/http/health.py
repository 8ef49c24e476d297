"""`python -m intrr_rec.serving.http.health`: is the server of this container well? For the image's HEALTHCHECK.

A container whose first process is another verb is well for as long as it runs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

FIRST = Path("/proc/1/cmdline")
PORT, SECONDS = 8765, 4.0


def address(words: Sequence[str]) -> tuple[str, int] | None:
    """Where a command line has its server listen; None of one that starts no server."""
    if not any(
        word == "serve" and before.endswith(("intrr", "intrr_rec")) for before, word in itertools.pairwise(words)
    ):
        return None
    given = dict(itertools.pairwise(words))
    given |= {name: value for word in words for name, equals, value in [word.partition("=")] if equals}
    host = given.get("--host", "127.0.0.1")
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host, int(given.get("--port", PORT))


def is_well(words: Sequence[str]) -> bool:
    """Whether the server that a command line starts, if it starts one, answers `/healthz`."""
    if (place := address(words)) is None:
        return True
    connection = HTTPConnection(*place, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_well(FIRST.read_bytes().decode(errors="replace").split("\0")))
