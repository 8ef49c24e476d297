"""Settings of the online server: how requests are batched, and how much it takes on."""

from __future__ import annotations

from pydantic import Field

from intrr_rec.config.section import Section
from intrr_rec.errors import ConfigError


class ServeConfig(Section):
    """The online server (`intrr serve`): batching and limits."""

    max_batch: int = Field(32, ge=1, description="requests the model answers together")
    batch_wait_ms: float = Field(
        2.0, ge=0, description="how long the first request of a batch waits for company while the model is idle"
    )
    max_queue: int = Field(
        128, ge=1, description="requests waiting for the model; one more is answered 429 with Retry-After"
    )
    max_in_flight: int = Field(256, ge=1, description="requests of any kind being worked on; one more is answered 429")
    max_connections: int = Field(
        1024,
        ge=16,
        description="open connections; for one more, the connection that has waited longest for its client is closed. "
        "Lowered at start to what the limit of open files (ulimit -n) leaves",
    )
    backlog: int = Field(1024, ge=1, description="connections the kernel holds until the server accepts them")
    header_seconds: float = Field(
        10.0, gt=0, description="from the opening of a connection to the end of a request's headers; then answered 408"
    )
    max_body_bytes: int | None = Field(
        None,
        ge=256,
        description="of a request; more is answered 413. Unset: 64 KiB, or 256 bytes per item of max_history if that is more",
    )
    body_seconds: float = Field(10.0, gt=0, description="a body that takes longer to arrive is answered 408")
    body_bytes_per_second: int = Field(
        500, ge=1, description="a body that arrives more slowly, its first three seconds apart, is answered 408"
    )
    send_seconds: float = Field(30.0, gt=0, description="a client that takes no answer for so long is disconnected")
    # Longer than the minute after which balancers let go of an idle connection: they close it first, and lose no request.
    keep_alive_seconds: float = Field(75.0, gt=0, description="an idle connection is closed after")
    max_history: int = Field(1_000, ge=1, description="items in one request; the model reads the newest of them")
    history_cache_mb: int = Field(
        0,
        ge=0,
        description="MiB for keys and values of histories of 256 events and more, so that a request that adds events to one it "
        "was asked before pays for those alone (HSTU without features, histories no longer than the window); 0: none are kept",
    )
    max_filter_items: int = Field(1_000, ge=1, description="items in a deny-list or an allow-list of one request")
    max_k: int = Field(100, ge=1, description="items one may ask for")
    max_beam: int = Field(200, ge=1, description="beam width one may ask for")
    threads: int = Field(1, ge=1, description="threads of the model's work on a CPU")
    drain_seconds: float = Field(
        0.0, ge=0, description="after SIGTERM: time between answering not ready and refusing new connections"
    )

    follow_seconds: float = Field(
        5.0, gt=0, description="between two looks at a registry (`intrr promote`), whose current bundle is served"
    )

    def share(self, workers: int) -> ServeConfig:
        """What one of so many workers takes on, so that all of them together take on no more than these settings say.

        Raises:
            ConfigError: too little for each.
        """
        least = 16 * workers
        if self.max_connections < least:
            raise ConfigError(
                f"--workers {workers}: needs serve.max_connections of at least {least}; give more, or fewer workers"
            )
        shared = {
            name: max(1, getattr(self, name) // workers) for name in ("max_queue", "max_in_flight", "max_connections")
        }
        return self.model_copy(update={**shared, "history_cache_mb": self.history_cache_mb // workers})

    def body_bytes(self) -> int:
        """The limit of a request's body in bytes."""
        if self.max_body_bytes is not None:
            return self.max_body_bytes
        return max(65_536, 256 * self.max_history)
