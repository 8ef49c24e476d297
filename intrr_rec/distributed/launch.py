"""What a launcher told this process by the environment, and the meeting of all ranks before they form a group.

A rank that never comes is named at once and every ten seconds, and given up after `patience()`.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from intrr_rec.errors import ConfigError
from intrr_rec.io.launcher import SPEAK_EVERY, Ranks, patience, stray

log = logging.getLogger(__name__)
CONNECT = timedelta(seconds=3)
GRACE = 1.0  # seconds by which the ranks of a healthy start may come after one another


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet, from MASTER_ADDR and MASTER_PORT."""

    host: str
    port: int

    @classmethod
    def from_environment(cls, ranks: Ranks) -> Meeting:
        """The meeting place that the launcher named.

        Raises:
            ConfigError: it named none, or no port.
        """
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if not host or not port:
            missing = "MASTER_PORT" if host else "MASTER_ADDR"
            raise ConfigError(f"WORLD_SIZE is {ranks.size}, but {missing} is not set; {stray()}")
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"MASTER_PORT is {port!r}, not a port (1 to 65535); {stray()}")
        return cls(host, int(port))


def meet(ranks: Ranks, timeout: timedelta) -> dist.Store:
    """A store that all ranks have reached.

    Args:
        timeout: of what the group does with the store later.

    Raises:
        ConfigError: the environment is not a launcher's, the port is another program's, or a rank did not come in time.
    """
    if ranks.size == 1:
        return dist.HashStore()  # alone: nobody to meet, so no port that another program may have
    meeting, agents = Meeting.from_environment(ranks), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    until = time.monotonic() + patience()
    tcp = _connect(meeting, ranks, until, is_host=ranks.rank == 0 and not agents)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"/intrr/attempt_{attempt}", tcp)
    store.set(f"here/{ranks.rank}", "")
    spoke = time.monotonic() - SPEAK_EVERY + GRACE
    while missing := [rank for rank in range(ranks.size) if not store.check([f"here/{rank}"])]:
        if time.monotonic() > until:
            raise ConfigError(
                f"rank {ranks.rank} of {ranks.size}: {_named(missing)} did not come within {patience():.0f} s; look at the logs "
                f"of the other ranks, or {stray()}"
            )
        if time.monotonic() - spoke >= SPEAK_EVERY:
            spoke = time.monotonic()
            left = until - spoke
            log.warning(
                "rank %d of %d waits at %s:%d for %s, %.0f s more",
                *(ranks.rank, ranks.size, meeting.host, meeting.port, _named(missing), left),
            )
        time.sleep(0.05)
    store.set_timeout(timeout)
    return store


def _connect(meeting: Meeting, ranks: Ranks, until: float, *, is_host: bool) -> dist.TCPStore:
    where = f"{meeting.host}:{meeting.port}"
    spoke = 0.0
    while True:
        try:
            return dist.TCPStore(
                meeting.host,
                meeting.port,
                ranks.size,
                is_master=is_host,
                timeout=CONNECT,
                wait_for_workers=False,
                multi_tenant=True,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:  # noqa: PERF203 - seconds apart
            if is_host:
                taken = "in use by another program" if "EADDRINUSE" in str(error) else "not to be had on this machine"
                raise ConfigError(
                    f"rank 0 of {ranks.size}: {where} (MASTER_ADDR, MASTER_PORT) is {taken}; name another port, or {stray()}"
                ) from None
            if time.monotonic() - spoke >= SPEAK_EVERY:  # before giving up: an attempt may outlast a short patience
                spoke = time.monotonic()
                left = max(0.0, until - spoke)
                log.warning("rank %d of %d waits for rank 0 at %s, %.0f s more", ranks.rank, ranks.size, where, left)
            if time.monotonic() > until:
                raise ConfigError(
                    f"rank {ranks.rank} of {ranks.size}: rank 0 did not answer at {where} within {patience():.0f} s; start it, fix "
                    f"MASTER_ADDR and MASTER_PORT, or {stray()}"
                ) from None


def _named(missing: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in missing[:8])
    more = f" and {len(missing) - 8} more" if missing[8:] else ""
    return f"rank{'s' if missing[1:] else ''} {shown}{more}"
