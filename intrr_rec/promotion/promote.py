"""`intrr promote` and `intrr rollback`: which bundle of a registry is served, decided by a rule and written down.

The bundle is put into the registry first, then the decision is written, then `registry.json` is replaced, which servers follow. A job that is
killed in between leaves the current bundle as it was, and the same command goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.table import Table

from intrr_rec.config.promotion import PromotionRule
from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import remove_tree, swap_into_place
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.registry import (
    BUNDLES,
    REGISTRY,
    Registry,
    bundle_place,
    decision_name,
    decisions,
    read_decision,
    read_registry,
    require_listed,
    write_decision,
    write_record,
)
from intrr_rec.io.stores.copies import publish
from intrr_rec.io.stores.lease import Lease
from intrr_rec.io.stores.mirror import origin
from intrr_rec.io.stores.staging import copied
from intrr_rec.io.stores.storage import Folder, Location, below
from intrr_rec.io.versions import link_tree
from intrr_rec.promotion.compare_on import compare_models, show
from intrr_rec.promotion.costs import measure_costs
from intrr_rec.promotion.judge import Check, judge
from intrr_rec.serving.bundle.bundle import KIND
from intrr_rec.serving.bundle.deltas import delta


def promote(
    candidate: Path, registry: Location, dataset: Location, rule: PromotionRule, seed: int = 0
) -> dict[str, Any]:
    """Judge a candidate against the registry's current bundle on a dataset's test users, and make it the current one if it holds.

    A delta (`intrr export --over`) is made the bundle that it stands for. The first candidate of a registry is promoted unjudged. One that is current already is left as it is.

    Returns:
        The decision: `promoted`, `reason`, `checks`, `comparison`, …

    Raises:
        ArtefactError: no whole bundle or dataset, a damaged registry, or another job that decides there.
        PlaceError: the registry cannot be written.
    """
    if not _is_delta(candidate):
        artefact.read(candidate, KIND)  # before the registry is made
    with _held(registry) as lease, _whole(candidate, registry) as bundle:
        manifest = artefact.read(bundle, KIND)
        record = read_registry(registry)
        if record is not None and record.current == manifest.content_hash:
            _say(f"{candidate}: is the current bundle of {registry} already")
            return read_decision(registry, record.decision)
        number = _next(registry, record)
        decision: dict[str, Any] = {
            "number": number,
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "candidate": manifest.content_hash,
            "candidate_place": str(origin(candidate)),
            "current": None if record is None else record.current,
            "rule": rule.model_dump(mode="json"),
        }
        if record is None:
            decision |= {"promoted": True, "reason": "nothing was served before", "checks": []}
        else:
            now = bundle_place(registry, record.current)
            require_listed(now, artefact.peek(now), record.current)
            decision |= _judged(bundle, now, dataset, rule, seed)
        if decision["promoted"]:
            _put(bundle, registry, manifest.content_hash, lease)
        fresh = None
        if decision["promoted"]:
            before = record.current if record else None
            fresh = Registry(current=manifest.content_hash, previous=before, decision=number)
        _decide(registry, number, decision, fresh, lease)
        verdict = "promoted" if decision["promoted"] else "kept the current bundle"
        _say(f"decision {number}: {verdict}: {decision['reason']}")
        return decision


def _is_delta(candidate: Path) -> bool:
    return Folder.at(candidate).has(artefact.MANIFEST) and artefact.peek(candidate).kind == delta.KIND


@contextmanager
def _whole(candidate: Path, registry: Location) -> Iterator[Path]:
    """The bundle of a candidate: itself, or what a delta makes of a bundle of the registry, for the length of the block.

    Raises:
        ArtefactError: a delta over a bundle that the registry does not hold.
    """
    if not _is_delta(candidate):
        yield candidate
        return
    record, base = read_registry(registry), delta.base_of(artefact.peek(candidate))
    held = [] if record is None else [name for name in (record.current, record.previous) if name]
    if base not in held:
        names = " and ".join(name[:12] for name in held) or "no bundle"
        raise ArtefactError(
            f"{candidate}: is over bundle {base[:12]}, but {registry} holds {names}; export it over one of these"
        )
    with (
        copied(bundle_place(registry, base)) as here,
        tempfile.TemporaryDirectory(prefix=".delta-", dir=here.parent) as folder,
    ):
        whole = Path(folder) / "bundle"
        delta.apply_delta(here, candidate, whole)
        yield whole


def roll_back(registry: Location) -> Registry:
    """Make the bundle before the current one the current one again; a second time returns to the newer.

    Raises:
        ArtefactError: no registry, none before, or a bundle that is damaged.
    """
    with _held(registry) as lease:
        record = read_registry(registry)
        if record is None:
            raise ArtefactError(f"{registry}: is no registry; give the folder that `intrr promote --over` wrote")
        if record.previous is None:
            raise ArtefactError(f"{registry}: has no bundle before the current one, so there is none to return to")
        before = bundle_place(registry, record.previous)
        require_listed(before, artefact.read(before, KIND), record.previous)
        number = _next(registry, record)
        reason = f"rolled back from {record.current[:12]} to {record.previous[:12]}"
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        decision = {"number": number, "when": when, "rolled_back": True, "reason": reason, "current": record.current}
        fresh = Registry(current=record.previous, previous=record.current, decision=number)
        _decide(registry, number, decision, fresh, lease)
        _say(f"decision {number}: {reason}")
        return fresh


def _judged(candidate: Path, current: Location, dataset: Location, rule: PromotionRule, seed: int) -> dict[str, Any]:
    data = Dataset.open(dataset)
    with join_world() as world:
        comparison = compare_models(data, [candidate, current], world, seed)
    costs = measure_costs([candidate, current], data, rule.latency.requests if rule.latency else None)
    checks = judge(rule, comparison, costs)
    show(comparison)
    _show(checks)
    failed = [check for check in checks if check.passed is False]
    reason = "; ".join(f"{check.part}: {check.said}" for check in failed) or "every part of the rule holds"
    return {
        "promoted": not failed,
        "reason": reason,
        "checks": [check.record() for check in checks],
        "comparison": comparison.record(),
        "costs": {"median_ms": costs.median_ms, "p95_ms": costs.p95_ms, "bytes": costs.bytes},
    }


def _show(checks: list[Check]) -> None:
    table = Table("part", "holds", "asked for and found")
    for check in checks:
        table.add_row(check.part, {True: "yes", False: "no", None: "–"}[check.passed], check.said)
    console(markup=False).print(table)


def _say(text: str) -> None:
    console(markup=False).print(text, soft_wrap=True)


@contextmanager
def _held(registry: Location) -> Iterator[Lease | None]:
    """The right to decide in a registry, for the length of the block."""
    if not isinstance(registry, Path):
        lease = Lease(Folder.at(registry))
        try:
            yield lease
        finally:
            lease.release()
        return
    with writing_to(registry):
        registry.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(registry)
        except Taken:
            raise ArtefactError(f"{registry}: another job is deciding there; wait for it") from None
    with lock:
        yield None


def _next(registry: Location, record: Registry | None) -> int:
    return max([0, *decisions(registry), record.decision if record else 0]) + 1


def _put(candidate: Path, registry: Location, content_hash: str, lease: Lease | None) -> None:
    """Have the bundle in the registry, whole."""
    target = bundle_place(registry, content_hash)
    if not isinstance(target, Path):
        assert lease is not None
        publish(candidate, Folder.at(target), lease)
        return
    with suppress(ArtefactError):
        if artefact.read(target, KIND).content_hash == content_hash:
            return
    staging = target.with_name(f".{target.name}.tmp")
    with writing_to(target):
        remove_tree(staging)
        target.parent.mkdir(exist_ok=True)
        try:
            link_tree(candidate, staging)
            swap_into_place(staging, target)
        finally:
            remove_tree(staging)


def _decide(
    registry: Location, number: int, decision: dict[str, Any], fresh: Registry | None, lease: Lease | None
) -> None:
    """Write a decision and, where it changes something, publish that; a decision that cannot take effect does not stay."""
    with writing_to(registry) if isinstance(registry, Path) else nullcontext():
        write_decision(registry, number, decision)
    if fresh is None:
        return
    try:
        _publish(registry, fresh, lease)
    except BaseException:
        with suppress(Exception):
            Folder.at(registry).remove(decision_name(number))
        raise


def _publish(registry: Location, fresh: Registry, lease: Lease | None) -> None:
    """Replace `registry.json`, then remove the bundles that it names no more."""
    if lease is not None:
        lease.require()
    with writing_to(registry) if isinstance(registry, Path) else nullcontext():
        write_record(registry, REGISTRY, fresh.model_dump())
    kept = {name[:16] for name in (fresh.current, fresh.previous) if name}
    bundles = Folder.at(below(registry, BUNDLES))
    for name in set(bundles.folders()) - kept:
        if isinstance(registry, Path):
            remove_tree(registry / BUNDLES / name)
        else:
            bundles.remove(f"{name}/{artefact.MANIFEST}")
            bundles.remove_folder(name)
