"""What the server tells Prometheus (`/metrics`)."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.formats.mapped import OTHER_TMPDIR, reserve
from intrr_rec.serving.http.workers.processes import Processes
from intrr_rec.serving.http.workers.team import Team

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # a start time beside every counter, which nobody reads

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own: two servers in one process do not mix.

    Args:
        team: the workers whose counters are told as one; None: this process is the only one.

    Raises:
        PlaceError: no room for the counters in the folder of temporary files.
    """

    def __init__(self, team: Team | None = None) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._team, self._served = team, ""
        self.requests = Counter("intrr_requests", "Answers, by route and status.", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "intrr_request_seconds", "From the first byte of a request to the last of its answer.", ["route"],
            buckets=_SECONDS, registry=r,
        )  # fmt: skip
        self.in_flight = Gauge(
            "intrr_requests_in_flight", "Requests being worked on.", registry=r, multiprocess_mode="livesum"
        )
        self.waiting = Gauge(
            "intrr_queue_length", "Requests waiting for the model.", registry=r, multiprocess_mode="livesum"
        )
        self.batch_size = Histogram("intrr_batch_size", "Requests answered together.", buckets=_SIZES, registry=r)
        self.wait_seconds = Histogram(
            "intrr_queue_seconds", "Time the first request of a batch waited.", buckets=_SECONDS, registry=r
        )
        self.model_seconds = Histogram(
            "intrr_model_seconds", "Time of a batch in the model.", buckets=_SECONDS, registry=r
        )
        self.unknown_items = Counter("intrr_unknown_items", "Items of histories that the bundle has not.", registry=r)
        self.defaults = Counter("intrr_default_answers", "Answers by popularity, to empty histories.", registry=r)
        self.ended = Counter(
            "intrr_connections_ended", "Connections that the server closed, by what their client did not do in time; "
            "room: for a newer one.", ["reason"], registry=r,
        )  # fmt: skip
        self.reloads = Counter("intrr_reloads", "Reloads of the bundle, by outcome.", ["outcome"], registry=r)
        self.bundle = Gauge(
            "intrr_bundle", "Processes that serve a bundle.", ["hash"], registry=r, multiprocess_mode="livesum"
        )

        if team is not None:
            for path in team.folder.glob(f"*_{os.getpid()}.db"):
                with writing_to(path, OTHER_TMPDIR), open(path, "r+b") as file:
                    reserve(file, path.stat().st_size)

    def observe_batch(self, size: int, waited: float, seconds: float) -> None:
        """Count a batch of the model."""
        self.batch_size.observe(size)
        self.wait_seconds.observe(waited)
        self.model_seconds.observe(seconds)

    def serve(self, bundle_hash: str) -> None:
        """Name the bundle being served."""
        if self._served:
            self.bundle.labels(self._served).set(0)
        self.bundle.labels(bundle_hash).set(1)
        self._served = bundle_hash

    def text(self) -> bytes:
        """All of it, in Prometheus' text format; of several workers the sums."""
        if self._team is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._team.folder))
        together.register(Processes(self._team.supervisor))
        return generate_latest(together)
