"""A server of a registry follows its current bundle: promoted (as a delta) and rolled back under load, with no request failed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.registry import REGISTRY, bundle_place, read_registry, write_record
from intrr_rec.promotion.promote import promote, roll_back
from intrr_rec.serving.bundle.deltas.delta import write_delta
from tests.promotion.days import make_days
from tests.promotion.test_promote import LENIENT
from tests.serving.process import serving


@pytest.mark.slow
def test_promotion_and_rollback_under_load(tmp_path: Path) -> None:
    days, registry, delta = make_days(tmp_path), tmp_path / "registry", tmp_path / "delta"
    old, new = (artefact.peek(bundle).content_hash for bundle in days.bundles)
    write_delta(*days.bundles, delta)
    with pytest.raises(ArtefactError, match="holds no bundle; export it over one of these"):
        promote(delta, registry, days.line.dataset, LENIENT)
    promote(days.bundles[0], registry, days.line.dataset, LENIENT)
    write_delta(*reversed(days.bundles), tmp_path / "back")
    with pytest.raises(ArtefactError, match=r"is over bundle \w+, but .* holds \w+"):
        promote(tmp_path / "back", registry, days.line.dataset, LENIENT)
    with serving(registry, "--workers", "2", "serve.follow_seconds=0.2") as server:
        codes: list[int] = []
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                codes.append(server.recommend(history=[1, 2, 3]).status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()

        def serves(content_hash: str) -> bool:
            return server.figure(f'intrr_bundle{{hash="{content_hash}"}}') == 2

        try:
            server.until(lambda: serves(old))
            promote(delta, registry, days.line.dataset, LENIENT)
            server.until(lambda: serves(new))
            assert not list((registry / "bundles").glob(".*"))
            assert artefact.read(bundle_place(registry, new), "bundle").content_hash == new
            roll_back(registry)
            server.until(lambda: serves(old))
            # What is promoted next is damaged on the disk: the old one goes on, and the server says so.
            found = read_registry(registry)
            assert found is not None and found.previous == new
            (bundle_place(registry, new) / "settings.json").write_text("{}")  # type: ignore[operator]
            write_record(registry, REGISTRY, found.model_copy(update={"current": new, "previous": old}).model_dump())
            server.until(lambda: server.figure('intrr_reloads_total{outcome="refused"}') >= 1)
            assert serves(old)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert len(codes) > 20 and set(codes) == {200}
        assert server.stop() == 0
