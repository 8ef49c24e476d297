"""The semantic ids artefact: every item's code path, the codebooks they come from, the prefix trie and its quality.

Files: `codes.parquet` (item: dense id, item_id: the user's own id, codes: fixed-size list of int32), `codebooks.safetensors`
(residual levels only), `trie.safetensors`, `quality.json`, `manifest.json`.

Shape legend: I items, L levels (the de-duplication level is the last), D vector width, K codes of a level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from intrr_rec import artefact
from intrr_rec.artefact import Manifest
from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.errors import ArtefactError

KIND = "semantic ids"
CODES, CODEBOOKS, TRIE, QUALITY = "codes.parquet", "codebooks.safetensors", "trie.safetensors", "quality.json"


@dataclass(frozen=True)
class SemanticIds:
    """An opened artefact.

    Attributes:
        codes_IL: int64; row i is the path of dense item i.
        item_ids: the user's own id of every dense item.
        codes_per_level: L sizes, the de-duplication level's last.
        codebooks: L - 1 tables `[K, D]`, one a residual level.
        trie: the prefix trie over `codes_IL`.
        quality: what `measure_quality` found.
    """

    path: Path
    manifest: Manifest
    codes_IL: Tensor
    item_ids: pa.ChunkedArray
    codes_per_level: tuple[int, ...]
    codebooks: tuple[Tensor, ...]
    trie: PrefixTrie
    quality: dict[str, Any]

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.codes_IL)

    @property
    def levels(self) -> int:
        """L, the de-duplication level included."""
        return len(self.codes_per_level)

    @staticmethod
    def write(
        out: Path | str,
        *,
        codes_IL: Tensor,
        codes_per_level: Sequence[int],
        codebooks: Sequence[Tensor],
        item_ids: pa.ChunkedArray,
        quality: Mapping[str, Any],
        config: Mapping[str, Any],
        parents: Mapping[str, str],
    ) -> Manifest:
        """Build the trie and publish the artefact at `out`; equal arguments give equal bytes.

        Args:
            config: kept in the manifest, with `codes_per_level` added.
            parents: content hashes of the "dataset" and the "vectors" the codes were made from.

        Raises:
            DataError: a code out of range or two items on one path.
            ArtefactError: `out` holds something else.
        """
        trie = PrefixTrie.build(codes_IL, codes_per_level)
        n_items, n_levels = codes_IL.shape
        flat = pa.array(codes_IL.to(torch.int32).numpy().reshape(-1))
        columns = {
            "item": pa.array(range(n_items), pa.int64()),
            "item_id": item_ids,
            "codes": pa.FixedSizeListArray.from_arrays(flat, n_levels),
        }
        settings = {**config, "codes_per_level": list(codes_per_level)}
        with artefact.writing(out, KIND, settings) as draft:
            pq.write_table(pa.table(columns), draft.path / CODES)
            named = {f"level.{level}": codebook_KD.contiguous() for level, codebook_KD in enumerate(codebooks)}
            (draft.path / CODEBOOKS).write_bytes(save(named))
            (draft.path / TRIE).write_bytes(save(trie.tensors()))
            artefact.write_json(draft.path / QUALITY, dict(quality))
            draft.counts |= {"items": n_items, "levels": n_levels}
            draft.parents |= parents
        return artefact.read(out, KIND)

    @classmethod
    def open(cls, path: Path | str) -> SemanticIds:
        """Read and verify the artefact.

        Raises:
            ArtefactError: missing, altered, of another kind or schema, or its files disagree with one another.
        """
        path = Path(path)
        manifest = artefact.read(path, KIND)
        table = pq.read_table(path / CODES)
        codes = table["codes"].combine_chunks()
        codes_IL = torch.from_numpy(codes.flatten().to_numpy().astype(np.int64)).reshape(len(table), -1)
        named = load_file(path / CODEBOOKS)
        opened = cls(
            path=path,
            manifest=manifest,
            codes_IL=codes_IL,
            item_ids=table["item_id"],
            codes_per_level=tuple(manifest.config["codes_per_level"]),
            codebooks=tuple(named[f"level.{level}"] for level in range(len(named))),
            trie=PrefixTrie.from_tensors(load_file(path / TRIE)),
            quality=json.loads((path / QUALITY).read_text(encoding="utf-8")),
        )
        opened._require_consistent(table["item"].to_numpy().tolist())
        return opened

    def _require_consistent(self, items: list[int]) -> None:
        shape = (self.manifest.counts["items"], self.manifest.counts["levels"])
        sizes = tuple(len(codebook_KD) for codebook_KD in self.codebooks)
        checks = {
            f"{CODES} has shape {tuple(self.codes_IL.shape)}, the manifest says {shape}": self.codes_IL.shape == shape,
            f"{CODES} does not list items 0 … {shape[0] - 1} in order": items == list(range(shape[0])),
            f"{CODEBOOKS} has level sizes {sizes}, the manifest says {self.codes_per_level[:-1]}": sizes
            == self.codes_per_level[:-1],
            f"{TRIE} does not hold the paths of {CODES}": self._trie_matches(),
        }
        for fault, passed in checks.items():
            if not passed:
                raise ArtefactError(f"{self.path}: {fault}; build the semantic ids again")

    def _trie_matches(self) -> bool:
        leaves = self.trie.leaf_items.long()
        return (
            self.trie.levels == self.codes_IL.shape[1]
            and len(leaves) == self.trie.nodes(self.trie.levels) == len(self.codes_IL)
            and torch.equal(self.codes_IL[leaves, -1], self.trie.child_codes[-1].long())
        )
