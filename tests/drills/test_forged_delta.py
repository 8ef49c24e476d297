"""Deltas that somebody made who means to deceive: hashes are right, the content is not. Each is one line, and makes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from intrr_rec.errors import UserError
from intrr_rec.io.artefact import MANIFEST, file_hash
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import sealed
from intrr_rec.serving.bundle.deltas.delta import PACKED, RECORD, apply_delta

Forge = Callable[[Path, dict[str, Any]], None]


def every(made_so: str, /, **change: Any) -> Forge:
    """Of each file that is made so."""

    def forge(path: Path, record: dict[str, Any]) -> None:
        found = [each for each in record["files"].values() if each["how"] == made_so]
        assert found, made_so
        for each in found:
            each.update(change)

    return forge


def unpacks_to(size: int, kind: str) -> Forge:
    """Little that unpacks to very much."""

    def forge(path: Path, record: dict[str, Any]) -> None:
        packed = sorted(path.glob(f"{kind}-*{PACKED}"))[0]
        with pa.OSFile(str(packed), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
            for _ in range(size >> 20):
                out.write(bytes(1 << 20))

    return forge


def noise(path: Path, record: dict[str, Any]) -> None:
    for packed in path.glob(f"*{PACKED}"):
        packed.write_bytes(b"no zstd")


def elsewhere(path: Path, record: dict[str, Any]) -> None:
    for files in (record["files"], record["bundle"]["files"]):
        files["../../out-of-here"] = next(iter(files.values()))


def wide(path: Path, record: dict[str, Any]) -> None:
    header = json.dumps({"values": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}})
    each = next(each for name, each in record["files"].items() if name.endswith(".safetensors"))
    each.update(how="rows", header=header)


FORGED: dict[str, Forge] = {
    "a file of 10^15 bytes": every("whole", size=10**15),
    "a size below zero": every("whole", size=-1),
    "a size that is text": every("whole", size="1"),
    "a tail that begins beyond the older file": every("whole", how="tail", begins=1 << 49),
    "rows without a header": every("whole", how="rows"),
    "a header of 2^62 bytes": wide,
    "a header that is none": every("whole", how="rows", header="[" * 100_000),
    "an unknown way": every("whole", how="run"),
    "1 GB in a few bytes": unpacks_to(1 << 30, "whole"),
    "no zstd": noise,
    "a name outside": elsewhere,
    "the older file for a new one": every("whole", how="same"),
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.timeout(60)
def test_a_forged_delta_is_one_line_and_makes_nothing(made: dict[str, Path], what: str, tmp_path: Path) -> None:
    delta, out = tmp_path / "delta", tmp_path / "place" / "out"
    shutil.copytree(made["bundle delta"], delta)
    record = json.loads((delta / RECORD).read_bytes())
    FORGED[what](delta, record)
    write_json(delta / RECORD, record)
    manifest = json.loads((delta / MANIFEST).read_bytes())
    manifest.pop("sha256")
    manifest["files"] = {name: file_hash(delta / name) for name in manifest["files"]}
    write_json(delta / MANIFEST, sealed(manifest))
    with pytest.raises(UserError) as caught:
        apply_delta(made["bundle"], delta, out)
    assert "\n" not in str(caught.value)
    assert not out.exists() and not any(out.parent.glob(".*"))
    assert sorted(path.name for path in tmp_path.iterdir()) in (["delta"], ["delta", "place"])


def test_the_delta_as_it_is_makes_the_bundle(made: dict[str, Path], tmp_path: Path) -> None:
    apply_delta(made["bundle"], made["bundle delta"], tmp_path / "out")
    later = made["bundle"].with_name("later-bundle")
    names = sorted(path.name for path in later.iterdir() if path.name != MANIFEST)
    assert [file_hash(tmp_path / "out" / name) for name in names] == [file_hash(later / name) for name in names]
