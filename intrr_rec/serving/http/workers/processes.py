"""What the processes of one server take together, under the names that `ProcessCollector` gives to those of a single one."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class Processes:
    """Collects figures of the process that started the workers, and of all of them.

    Args:
        supervisor: its id.
    """

    def __init__(self, supervisor: int) -> None:
        self._supervisor = psutil.Process(supervisor)

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        ended = self._supervisor.cpu_times()
        seconds, held, files = (
            ended.children_user + ended.children_system,
            0,
            0,
        )  # of workers that died, so that no sum falls
        for process in (self._supervisor, *self._supervisor.children()):
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                times = process.cpu_times()
                held += held_by(process.pid)
                seconds += times.user + times.system
                files = max(files, process.num_fds())
        most, began = resource.getrlimit(resource.RLIMIT_NOFILE)[0], self._supervisor.create_time()
        yield CounterMetricFamily("process_cpu_seconds_total", "Processor time of all processes.", value=seconds)
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory of all; what they share counts once.", held)
        yield GaugeMetricFamily("process_open_fds", "Open files of the process that has the most.", files)
        yield GaugeMetricFamily("process_max_fds", "Files that one process may open.", most)
        yield GaugeMetricFamily("process_start_time_seconds", "When the server began, in seconds since 1970.", began)


def held_by(process: int) -> int:
    """Bytes of memory that a process holds; what it shares with n − 1 others counts 1/n (PSS).

    Raises:
        OSError: it has ended.
    """
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
