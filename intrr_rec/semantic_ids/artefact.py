"""The semantic ids artefact: every item's codes, the codebooks they come from, the prefix trie and its quality.

Files: `codes.safetensors` (codes `[I, L]` by dense id, as narrow as they fit), `trie.safetensors` (flat arrays as well),
`sids.parquet` (what to read it by: item: dense id, item_id: the user's own id, sid: fixed-size list of int32),
`codebooks.safetensors` (residual levels only), `quantizer.safetensors` (all that codes for further items need),
`settings.json` (how they were made: method, seed, order rule), `quality.json`, `manifest.json`. An extended artefact (version 2
and later) has in `sids.parquet` the version each item came with (`since`), and beside it `retired.parquet` (item_id, sid,
since: items that left; their Semantic IDs stay taken) and `drift.json`.

Codes and trie are mapped, not read: the processes of a host share one copy, and what nobody looks at is not loaded.

Shape legend: I items, R retired items, L levels (the de-duplication level is the last), D vector width, K codes of a level.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save, save_file
from torch import Tensor

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Draft, Manifest, Opened
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.parquet import batches
from intrr_rec.io.formats.records import as_record
from intrr_rec.semantic_ids.trie import PrefixTrie, narrowest

if TYPE_CHECKING:
    from typing_extensions import NotRequired, Unpack  # of typing from Python 3.11 on

KIND = "semantic ids"
SETTINGS, QUANTIZER = "settings.json", "quantizer.safetensors"
SIDS, CODEBOOKS, TRIE, QUALITY = "sids.parquet", "codebooks.safetensors", "trie.safetensors", "quality.json"
CODES, NAME = "codes.safetensors", "codes"
RETIRED, DRIFT = "retired.parquet", "drift.json"
REQUIRED = (SIDS, CODES, CODEBOOKS, QUANTIZER, SETTINGS, TRIE, QUALITY)
ROWS = 1 << 20  # of `sids.parquet` that are made at a time


class _Made(BaseModel):
    """What is read of the settings in the manifest."""

    model_config = ConfigDict(strict=True)

    codes_per_level: list[Annotated[int, Field(ge=1, le=1 << 31)]] = Field(min_length=2, max_length=64)
    version: int = Field(ge=1, le=1 << 31)


@dataclass(frozen=True)
class Published:
    """Published ids.

    Attributes:
        item_ids: the user's own ids, int64 or string.
        codes_IL: int64, the de-duplication digit last.
        since_I: int64, the version that published each.
    """

    item_ids: pa.Array
    codes_IL: Tensor
    since_I: Tensor

    def __len__(self) -> int:
        return len(self.codes_IL)


@dataclass(frozen=True)
class Growth:
    """What an extended artefact has beyond a fresh one.

    Attributes:
        version: 2 for the first extension.
        since_I: the version each live item's id was published in.
        retired: items no longer in the catalogue, whose Semantic IDs are never given to another.
        drift: what `measure_drift` found.
    """

    version: int
    since_I: Tensor
    retired: Published
    drift: Mapping[str, Any]


class Pieces(TypedDict):
    """What an artefact is written of.

    Attributes:
        config: kept in the manifest, with `codes_per_level` and `version` added.
        parents: content hashes of the "dataset" and the "vectors" the codes were made from, and for an extension that of the
            "semantic ids" it extends.
        growth: given by an extension.
    """

    codes_IL: Tensor
    codes_per_level: Sequence[int]
    codebooks: Sequence[Tensor]
    quantizer: Mapping[str, Tensor]
    item_ids: pa.ChunkedArray
    quality: Mapping[str, Any]
    config: Mapping[str, Any]
    parents: Mapping[str, str]
    growth: NotRequired[Growth]


@dataclass(frozen=True)
class SemanticIds:
    """An opened artefact. What has a row an item is mapped, or read when it is asked for.

    Attributes:
        codes_IL: uint8, int16 or int32, on the host; row i is the Semantic ID of dense item i.
        codes_per_level: L sizes, the de-duplication level's last.
        codebooks: L - 1 tables `[K, D]`, one a residual level.
        quality: what `measure_quality` found.
        quantizer: what the quantizer needs to give further items codes.
        version: 1 for a fresh artefact, one more with every extension.
        drift: what `measure_drift` found when this version was made; None in a fresh artefact.
    """

    path: Path
    manifest: Manifest
    codes_IL: Tensor
    codes_per_level: tuple[int, ...]
    codebooks: tuple[Tensor, ...]
    quality: dict[str, Any]
    quantizer: Mapping[str, Tensor]
    version: int
    drift: dict[str, Any] | None
    _opened: Opened = field(repr=False)

    @cached_property
    def trie(self) -> PrefixTrie:
        """The prefix trie over `codes_IL`, mapped.

        Raises:
            ArtefactError: the file is no trie, or that of other Semantic IDs.
        """
        try:
            return PrefixTrie.from_tensors(self._opened.mapped(TRIE), self.codes_IL)
        except (ValueError, KeyError, IndexError, RuntimeError) as error:
            raise ArtefactError(f"{self.path}: {TRIE}: {error}; build the semantic ids again") from None

    @property
    def item_ids(self) -> pa.ChunkedArray:
        """The user's own id of every dense item; read anew each time."""
        return pa.chunked_array([ids for _, ids in self.own_ids()])

    def own_ids(self) -> Iterator[tuple[int, pa.Array]]:
        """First dense item and own ids of some items at a time, in order.

        Raises:
            ArtefactError: the file does not list every item in order.
        """
        first = 0
        for batch in batches(self._opened.parquet(SIDS), ROWS, ["item", "item_id"]):
            if not np.array_equal(batch["item"].to_numpy(), np.arange(first, first + len(batch))):
                raise ArtefactError(
                    f"{self.path}: {SIDS} does not list items 0 … in order; build the semantic ids again"
                )
            yield first, self._own(batch["item_id"])
            first += len(batch)

    @property
    def since_I(self) -> Tensor:
        """The version each item's id was published in, int64; read anew each time."""
        file = self._opened.parquet(SIDS)
        if "since" not in file.schema_arrow.names:
            return torch.ones(self.n_items, dtype=torch.int64)
        return self._versions(file.read(["since"])["since"])

    @property
    def retired(self) -> Published:
        """Items that left the catalogue; not in the trie."""
        file = self._opened.parquet(RETIRED if RETIRED in self.manifest.files else SIDS)
        if RETIRED in self.manifest.files:
            table = file.read()
        else:
            table = file.schema_arrow.empty_table().select(["item_id", "sid"])
            table = table.append_column("since", pa.array([], pa.int64()))
        if not {"item_id", "sid", "since"} <= set(table.column_names) or not pa.types.is_fixed_size_list(
            table["sid"].type
        ):
            raise ArtefactError(
                f"{self.path}: has no item_id, sid and since of items that left; build the semantic ids again"
            )
        return Published(
            self._own(table["item_id"].combine_chunks()), _codes(table["sid"]), self._versions(table["since"])
        )

    def _versions(self, since: pa.ChunkedArray) -> Tensor:
        if since.type != pa.int64() or since.null_count:
            raise ArtefactError(
                f"{self.path}: {SIDS}: since is no whole number of each item; build the semantic ids again"
            )
        return torch.tensor(since.to_numpy())

    def _own(self, ids: pa.Array) -> pa.Array:
        if ids.null_count or not (pa.types.is_int64(ids.type) or pa.types.is_string(ids.type)):
            raise ArtefactError(
                f"{self.path}: {SIDS}: item_id has type {ids.type}, or gaps; build the semantic ids again"
            )
        return ids

    def copy(self, name: str, target: Path) -> None:
        """Copy a file of the artefact."""
        if (path := self._opened.folder.local(name)) is not None:
            shutil.copyfile(path, target)
        else:
            target.write_bytes(self._opened.read(name))

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.codes_IL)

    @property
    def levels(self) -> int:
        """L, the de-duplication level included."""
        return len(self.codes_per_level)

    @staticmethod
    def write(out: Path | str, **pieces: Unpack[Pieces]) -> Manifest:
        """Build the trie and publish the artefact at `out`; equal pieces give equal bytes.

        Raises:
            DataError: a code out of range or two items with one Semantic ID.
            ArtefactError: `out` holds something else, or another job is writing it.
        """
        with artefact.writing(out, KIND, {}) as draft:
            fill(draft, **pieces)
        return artefact.read(out, KIND)

    @classmethod
    def open(cls, path: Path | str) -> SemanticIds:
        """Read and verify the artefact.

        Raises:
            ArtefactError: missing, altered, of another kind or schema, or its files disagree with one another.
        """
        path = Path(path)
        return artefact.open_artefact(path, KIND, lambda opened: cls._of(path, opened), REQUIRED)

    @classmethod
    def _of(cls, path: Path, opened: Opened) -> SemanticIds:
        manifest, files = opened.manifest, opened.manifest.files
        made = as_record(manifest.config, _Made, f"{path}/{MANIFEST}", "build the semantic ids again")
        named = opened.tensors(CODEBOOKS)
        ids = cls(
            path=path,
            manifest=manifest,
            codes_IL=opened.mapped(CODES)[NAME],
            codes_per_level=tuple(made.codes_per_level),
            codebooks=tuple(named[f"level.{level}"] for level in range(len(named))),
            quality=_object(opened.json(QUALITY)),
            quantizer=opened.tensors(QUANTIZER),
            version=made.version,
            drift=_object(opened.json(DRIFT)) if DRIFT in files else None,
            _opened=opened,
        )
        ids._require_consistent(opened.parquet(SIDS).metadata.num_rows)
        return ids

    def _require_consistent(self, rows: int) -> None:
        shape = (self.manifest.counts["items"], self.manifest.counts["levels"])
        sizes = tuple(len(codebook_KD) for codebook_KD in self.codebooks)
        checks = {
            f"{CODES} has shape {tuple(self.codes_IL.shape)}, the manifest says {shape}": self.codes_IL.shape == shape,
            f"{CODES} has {shape[1]} levels, the settings {self.levels}": shape[1] == self.levels,
            f"{CODES} holds a code beyond its level's": codes_fit(self.codes_IL, self.codes_per_level),
            f"{SIDS} has {rows} rows, the manifest says {shape[0]}": rows == shape[0],
            f"{CODEBOOKS} has level sizes {sizes}, the manifest says {self.codes_per_level[:-1]}": sizes
            == self.codes_per_level[:-1],
        }
        for fault, passed in checks.items():
            if not passed:
                raise ArtefactError(f"{self.path}: {fault}; build the semantic ids again")


def codes_fit(codes_IL: Tensor, codes_per_level: Sequence[int]) -> bool:
    """Whether these are Semantic IDs of such levels, as narrow as they fit; no copy of them is made."""
    if codes_IL.ndim != 2 or codes_IL.dtype != narrowest(max(codes_per_level) - 1) or not len(codes_IL):
        return False
    smallest_L, largest_L = codes_IL.amin(0).tolist(), codes_IL.amax(0).tolist()
    return len(smallest_L) == len(codes_per_level) and all(
        0 <= low <= high < codes for low, high, codes in zip(smallest_L, largest_L, codes_per_level, strict=True)
    )


def fill(draft: Draft, **pieces: Unpack[Pieces]) -> None:
    """Build the trie and put all files into an artefact that is being written.

    Raises:
        DataError: a code out of range or two items with one Semantic ID.
    """
    codes_IL, growth = pieces["codes_IL"], pieces.get("growth")
    trie = PrefixTrie.build(codes_IL, pieces["codes_per_level"])
    n_items, n_levels = codes_IL.shape
    codes_IL = codes_IL.to(narrowest(max(pieces["codes_per_level"]) - 1)).contiguous()
    version = growth.version if growth else 1
    draft.config |= {**pieces["config"], "codes_per_level": list(pieces["codes_per_level"]), "version": version}
    if growth:
        gone = growth.retired
        retired = {"item_id": gone.item_ids, "sid": _lists(gone.codes_IL), "since": gone.since_I.numpy()}
        pq.write_table(pa.table(retired), draft.path / RETIRED)
        write_json(draft.path / DRIFT, dict(growth.drift))
        draft.counts["retired"] = len(gone)
    _write_sids(draft.path / SIDS, codes_IL, pieces["item_ids"], growth.since_I if growth else None)
    save_file({NAME: codes_IL}, draft.path / CODES)
    named = {f"level.{level}": codebook_KD.contiguous() for level, codebook_KD in enumerate(pieces["codebooks"])}
    (draft.path / CODEBOOKS).write_bytes(save(named))
    (draft.path / QUANTIZER).write_bytes(save({name: t.contiguous() for name, t in pieces["quantizer"].items()}))
    write_json(draft.path / SETTINGS, draft.config)
    save_file(trie.tensors(), draft.path / TRIE)
    write_json(draft.path / QUALITY, dict(pieces["quality"]))
    draft.counts |= {"items": n_items, "levels": n_levels}
    draft.parents |= pieces["parents"]


def _write_sids(path: Path, codes_IL: Tensor, item_ids: pa.ChunkedArray, since_I: Tensor | None) -> None:
    """The table for people, some rows at a time."""
    writer = None
    for first in range(0, len(codes_IL), ROWS):
        end = min(first + ROWS, len(codes_IL))
        columns = {
            "item": pa.array(np.arange(first, end)),
            "item_id": item_ids.slice(first, end - first),
            "sid": _lists(codes_IL[first:end]),
        }
        if since_I is not None:
            columns["since"] = pa.array(since_I[first:end].numpy())
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _lists(codes_IL: Tensor) -> pa.Array:
    flat = pa.array(codes_IL.to(torch.int32).numpy().reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, codes_IL.shape[1])


def _codes(sids: pa.ChunkedArray) -> Tensor:
    column = sids.combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy().astype(np.int64)).reshape(len(column), column.type.list_size)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{QUALITY} and {DRIFT} are JSON objects")
    return value
