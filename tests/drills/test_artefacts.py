"""Drills on files that were changed or swapped: each is refused in one line or has no effect, and none is a traceback.

The fast suite draws a sample by seed; the slow one takes all bytes of the files that no hash of another file vouches for, and 300 swaps of each
kind.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from intrr_rec.errors import ArtefactError, UserError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import COMPLETE, MANIFEST
from intrr_rec.io.disk.atomic import swap_into_place
from intrr_rec.io.registry import (
    REGISTRY,
    Registry,
    bundle_place,
    decisions,
    read_registry,
    write_record,
)
from intrr_rec.serving.bundle.bundle import Bundle
from tests.drills.openers import OPENERS, of_bundle

SAMPLE = 40  # changes of a file that another one holds the hash of


def outcome(open_: Callable[[Path], str], path: Path, whole: str) -> str:
    """`refused`, `effectless`, or what went wrong."""
    try:
        return "effectless" if open_(path) == whole else "read otherwise"
    except UserError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else f"unnamed: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"


def drill_bytes(source: Path, kind: str, folder: Path, sample: int, *, every: bool) -> Counter[str]:
    """Change one byte at a time: `every` one of files that carry their own hash, of others `sample` by seed."""
    open_, names = OPENERS[kind]
    copy, rng, found = folder / "copy", random.Random(kind), Counter[str]()
    shutil.copytree(source, copy)
    whole = open_(copy)
    files = [copy / name for name in names] if names else sorted(path for path in copy.rglob("*") if path.is_file())
    for file in files:
        before = file.read_bytes()
        # A last line of figures without its end is one that was being written, and left out.
        end = len(before) - (file.name == "metrics.jsonl")
        vouches = file.name in (MANIFEST, COMPLETE) or (names is not None and file.suffix != ".parquet")
        places = range(end) if every and vouches else rng.sample(range(end), min(sample, end))
        for place in places:
            changed = bytearray(before)
            changed[place] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            found[outcome(open_, copy, whole)] += 1
        file.write_bytes(before)
    assert open_(copy) == whole
    return found


@pytest.mark.parametrize("kind", OPENERS)
def test_a_changed_byte_is_refused_or_without_effect(made: dict[str, Path], kind: str, tmp_path: Path) -> None:
    found = drill_bytes(made[kind], kind, tmp_path, sample=8, every=False)
    assert set(found) <= {"refused", "effectless"} and found["refused"], found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", OPENERS)
def test_every_changed_byte_is_refused_or_without_effect(made: dict[str, Path], kind: str, tmp_path: Path) -> None:
    found = drill_bytes(made[kind], kind, tmp_path, sample=SAMPLE, every=True)
    print(f"\n{kind}: {sum(found.values())} tried, {dict(found)}")
    assert set(found) <= {"refused", "effectless"}, found


def swap_while_opening(kind: str, one: Path, two: Path, place: Path, loads: int) -> Counter[str]:
    """Open `place` again and again while the two take turns at it."""
    open_ = OPENERS[kind][0]
    wholes = {open_(one): "one", open_(two): "two"}
    assert len(wholes) == 2
    other = place.with_name("other")
    shutil.copytree(one, place)
    shutil.copytree(two, other)
    over, found = threading.Event(), Counter[str]()

    def swap() -> None:
        while not over.wait(0.001):
            swap_into_place(other, place)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(loads):
            found[wholes.get(open_(place), "mixed")] += 1
    finally:
        over.set()
        swapper.join()
    return found


@pytest.mark.parametrize("loads", [20, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", ["dataset", "semantic_ids", "bundle"])
def test_what_is_swapped_while_it_is_opened_is_never_mixed(
    made: dict[str, Path], others: dict[str, Path], kind: str, loads: int, tmp_path: Path
) -> None:
    found = swap_while_opening(kind, made[kind], others[kind], tmp_path / "place", loads)
    assert sum(found.values()) == loads and not found["mixed"], found


def test_a_registry_serves_no_other_bundle_than_its_record_says(
    made: dict[str, Path], others: dict[str, Path], tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(made["registry"], registry)
    record = read_registry(registry)
    assert record is not None
    place = registry / "bundles" / record.current[:16]
    shutil.rmtree(place)
    shutil.copytree(others["bundle"], place)
    with pytest.raises(ArtefactError, match="the registry's record says"):
        Bundle.load(registry)
    for stray in ("\u00b2.json", "9" * 40 + ".json", "1.json", "note.txt"):
        (registry / "decisions" / stray).write_text("{}")
    assert decisions(registry) == [1]


@pytest.mark.parametrize("loads", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_bundle_that_is_promoted_while_it_is_opened_is_never_mixed_nor_missed(
    made: dict[str, Path], others: dict[str, Path], loads: int, tmp_path: Path
) -> None:
    """Each turn the bundle before is removed, as after two promotions."""
    registry, bundles = tmp_path / "registry", (made["bundle"], others["bundle"])
    hashes = [artefact.peek(bundle).content_hash for bundle in bundles]
    whole = {of_bundle(bundle) for bundle in bundles}
    shutil.copytree(bundles[0], bundle_place(registry, hashes[0]))
    write_record(registry, REGISTRY, Registry(current=hashes[0], previous=None, decision=1).model_dump())
    over, turns = threading.Event(), 0

    def promote() -> None:
        nonlocal turns
        while not over.wait(0.002):
            turns += 1
            new, old = hashes[turns % 2], hashes[1 - turns % 2]
            shutil.copytree(bundles[turns % 2], bundle_place(registry, new))
            write_record(registry, REGISTRY, Registry(current=new, previous=None, decision=turns).model_dump())
            shutil.rmtree(bundle_place(registry, old))

    promoter = threading.Thread(target=promote)
    promoter.start()
    try:
        found = Counter(of_bundle(registry) in whole for _ in range(loads))
    finally:
        over.set()
        promoter.join()
    assert found == {True: loads} and turns
