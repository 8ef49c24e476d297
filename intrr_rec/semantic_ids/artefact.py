"""The semantic ids artefact: every item's codes, the codebooks they come from, the prefix trie and its quality.

Files: `sids.parquet` (item: dense id, item_id: the user's own id, sid: fixed-size list of int32), `codebooks.safetensors`
(residual levels only), `quantizer.safetensors` (all that codes for further items need), `settings.json` (how they were made:
method, seed, order rule), `trie.safetensors`, `quality.json`, `manifest.json`. An extended artefact (version 2 and later) has
in `sids.parquet` the version each item came with (`since`), and beside it `retired.parquet` (item_id, sid, since: items
that left; their Semantic IDs stay taken) and `drift.json`.

Shape legend: I items, R retired items, L levels (the de-duplication level is the last), D vector width, K codes of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save
from torch import Tensor

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Draft, Manifest, Opened
from intrr_rec.io.atomic import write_json
from intrr_rec.io.records import as_record
from intrr_rec.semantic_ids.trie import PrefixTrie

if TYPE_CHECKING:
    from typing_extensions import NotRequired, Unpack  # of typing from Python 3.11 on

KIND = "semantic ids"
SETTINGS, QUANTIZER = "settings.json", "quantizer.safetensors"
SIDS, CODEBOOKS, TRIE, QUALITY = "sids.parquet", "codebooks.safetensors", "trie.safetensors", "quality.json"
RETIRED, DRIFT = "retired.parquet", "drift.json"
REQUIRED = (SIDS, CODEBOOKS, QUANTIZER, SETTINGS, TRIE, QUALITY)


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
    """An opened artefact.

    Attributes:
        codes_IL: int64; row i is the Semantic ID of dense item i.
        item_ids: the user's own id of every dense item.
        codes_per_level: L sizes, the de-duplication level's last.
        codebooks: L - 1 tables `[K, D]`, one a residual level.
        trie: the prefix trie over `codes_IL`.
        quality: what `measure_quality` found.
        quantizer: what the quantizer needs to give further items codes.
        version: 1 for a fresh artefact, one more with every extension.
        since_I: the version each item's id was published in.
        retired: items that left the catalogue; not in the trie.
        drift: what `measure_drift` found when this version was made; None in a fresh artefact.
    """

    path: Path
    manifest: Manifest
    codes_IL: Tensor
    item_ids: pa.ChunkedArray
    codes_per_level: tuple[int, ...]
    codebooks: tuple[Tensor, ...]
    trie: PrefixTrie
    quality: dict[str, Any]
    quantizer: Mapping[str, Tensor]
    version: int
    since_I: Tensor
    retired: Published
    drift: dict[str, Any] | None

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
        table = opened.parquet(SIDS).read()
        since = table["since"] if "since" in table.column_names else np.ones(len(table), np.int64)
        named = opened.tensors(CODEBOOKS)
        retired = opened.parquet(RETIRED).read() if RETIRED in files else None
        ids = cls(
            path=path,
            manifest=manifest,
            codes_IL=_codes(table),
            item_ids=_own_ids(table),
            codes_per_level=tuple(made.codes_per_level),
            codebooks=tuple(named[f"level.{level}"] for level in range(len(named))),
            trie=PrefixTrie.from_tensors(opened.tensors(TRIE)),
            quality=_object(opened.json(QUALITY)),
            quantizer=opened.tensors(QUANTIZER),
            version=made.version,
            since_I=torch.tensor(np.asarray(since)),
            retired=_retired(retired, table),
            drift=_object(opened.json(DRIFT)) if DRIFT in files else None,
        )
        ids._require_consistent(table["item"].to_numpy())
        return ids

    def _require_consistent(self, items_I: np.ndarray) -> None:
        shape = (self.manifest.counts["items"], self.manifest.counts["levels"])
        sizes = tuple(len(codebook_KD) for codebook_KD in self.codebooks)
        smallest_L, largest_L = (self.codes_IL.amin(0).tolist(), self.codes_IL.amax(0).tolist())
        within = all(
            0 <= low <= high < codes
            for low, high, codes in zip(smallest_L, largest_L, self.codes_per_level, strict=False)
        )
        checks = {
            f"{SIDS} has {self.codes_IL.shape[1]} levels, the settings {len(self.codes_per_level)}": len(smallest_L)
            == len(self.codes_per_level),
            f"{SIDS} holds a code beyond its level's": within,
            f"{SIDS} gives items no version": self.since_I.shape == (self.n_items,),
            f"{SIDS} has shape {tuple(self.codes_IL.shape)}, the manifest says {shape}": self.codes_IL.shape == shape,
            f"{SIDS} does not list items 0 … {shape[0] - 1} in order": np.array_equal(items_I, np.arange(shape[0])),
            f"{CODEBOOKS} has level sizes {sizes}, the manifest says {self.codes_per_level[:-1]}": sizes
            == self.codes_per_level[:-1],
            f"{TRIE} does not hold the Semantic IDs of {SIDS}": self._trie_matches(),
        }
        for fault, passed in checks.items():
            if not passed:
                raise ArtefactError(f"{self.path}: {fault}; build the semantic ids again")

    def _trie_matches(self) -> bool:
        return torch.equal(self.trie.codes_of_items(), self.codes_IL)


def fill(draft: Draft, **pieces: Unpack[Pieces]) -> None:
    """Build the trie and put all files into an artefact that is being written.

    Raises:
        DataError: a code out of range or two items with one Semantic ID.
    """
    codes_IL, growth = pieces["codes_IL"], pieces.get("growth")
    trie = PrefixTrie.build(codes_IL, pieces["codes_per_level"])
    n_items, n_levels = codes_IL.shape
    columns = {"item": pa.array(np.arange(n_items)), "item_id": pieces["item_ids"], "sid": _lists(codes_IL)}
    version = growth.version if growth else 1
    draft.config |= {**pieces["config"], "codes_per_level": list(pieces["codes_per_level"]), "version": version}
    if growth:
        columns["since"] = pa.array(growth.since_I.numpy())
        gone = growth.retired
        retired = {"item_id": gone.item_ids, "sid": _lists(gone.codes_IL), "since": gone.since_I.numpy()}
        pq.write_table(pa.table(retired), draft.path / RETIRED)
        write_json(draft.path / DRIFT, dict(growth.drift))
        draft.counts["retired"] = len(gone)
    pq.write_table(pa.table(columns), draft.path / SIDS)
    named = {f"level.{level}": codebook_KD.contiguous() for level, codebook_KD in enumerate(pieces["codebooks"])}
    (draft.path / CODEBOOKS).write_bytes(save(named))
    (draft.path / QUANTIZER).write_bytes(save({name: t.contiguous() for name, t in pieces["quantizer"].items()}))
    write_json(draft.path / SETTINGS, draft.config)
    (draft.path / TRIE).write_bytes(save(trie.tensors()))
    write_json(draft.path / QUALITY, dict(pieces["quality"]))
    draft.counts |= {"items": n_items, "levels": n_levels}
    draft.parents |= pieces["parents"]


def _lists(codes_IL: Tensor) -> pa.Array:
    flat = pa.array(codes_IL.to(torch.int32).numpy().reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, codes_IL.shape[1])


def _codes(table: pa.Table) -> Tensor:
    column = table["sid"].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type) or column.null_count or not column.type.list_size:
        raise ValueError("sid: values are no lists of one length")
    flat = column.flatten()
    if not pa.types.is_integer(flat.type) or flat.null_count:
        raise ValueError("sid: values are no integers")
    return torch.from_numpy(flat.to_numpy().astype(np.int64)).reshape(len(table), column.type.list_size)


def _own_ids(table: pa.Table) -> pa.ChunkedArray:
    ids = table["item_id"]
    if ids.null_count or not (pa.types.is_int64(ids.type) or pa.types.is_string(ids.type)):
        raise ValueError(f"item_id has type {ids.type}, or gaps")
    return ids


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{QUALITY} and {DRIFT} are JSON objects")
    return value


def _retired(table: pa.Table | None, live: pa.Table) -> Published:
    if table is None:
        table = live.select(["item_id", "sid"]).slice(0, 0).append_column("since", pa.array([], pa.int64()))
    since_R = torch.tensor(table["since"].to_numpy())
    return Published(_own_ids(table).combine_chunks(), _codes(table), since_R)
