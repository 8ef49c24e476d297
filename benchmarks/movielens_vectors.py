"""Vectors of MovieLens 100K's films without an encoder: genres, years of release, and a random direction for each word of the title.

Usage: python benchmarks/movielens_vectors.py u.item vectors.parquet
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GENRES = slice(5, 24)
WIDTH, FIRST_YEAR, YEARS, BANDS = 64, 1930, 9, 8


def main(films: Path, out: Path) -> None:
    """Write the vector of each film."""
    rng = np.random.default_rng(0)
    directions: dict[str, np.ndarray] = {}
    ids, vectors = [], []
    for line in films.read_text(encoding="latin-1").splitlines():
        number, title, *_ = fields = line.split("|")
        genres = np.array([float(flag) for flag in fields[GENRES]])
        found = re.search(r"\((\d{4})\)", title)
        band = np.clip(((int(found[1]) if found else 1995) - FIRST_YEAR) // YEARS, 0, BANDS - 1)
        text = np.zeros(WIDTH)
        for word in re.findall(r"[a-z]+", title.lower()):
            text += directions.setdefault(word, rng.normal(size=WIDTH))
        parts = [
            genres / max(float(genres.sum()), 1.0) ** 0.5,
            0.7 * np.eye(BANDS)[band],
            0.3 * text / max(float(np.linalg.norm(text)), 1.0),
        ]
        ids.append(int(number))
        vectors.append(np.concatenate(parts).astype(np.float32))
    pq.write_table(pa.table({"item_id": ids, "embedding": vectors}), out)


main(Path(sys.argv[1]), Path(sys.argv[2]))
