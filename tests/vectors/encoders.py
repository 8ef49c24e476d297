"""A sentence encoder in miniature."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from intrr_rec.vectors.embed import EmbedSettings, embed_dataset
from intrr_rec.vectors.encoder import Encoder

SETTINGS = EmbedSettings(batch=4, shard_rows=8)


class HashEncoder:
    """Each text → a vector drawn from its checksum; notes what it was asked, and takes `pause` seconds a batch."""

    def __init__(self, width: int = 6, seed: str = "a", pause: float = 0.0, scale: float = 1.0) -> None:
        self.name = f"hash-{seed}"
        self.identity = {"seed": seed, "scale": str(scale)}
        self.width = width
        self.batches: list[list[str]] = []
        self._pause, self._scale = pause, scale

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text) for text in texts], np.int64)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        time.sleep(self._pause)
        seeds = [zlib.crc32((self.identity["seed"] + text).encode()) for text in texts]
        rows = [np.random.default_rng(seed).normal(size=self.width) for seed in seeds]
        return (self._scale * np.stack(rows)).astype(np.float32)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def embedded(dataset: Path, out: Path, encoder: Encoder, settings: EmbedSettings = SETTINGS) -> dict[str, bytes]:
    embed_dataset(dataset, out, encoder, settings)
    return files(out)
