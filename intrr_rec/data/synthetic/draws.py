"""Draws of the generator: a counter-based hash, so that nothing hangs on the order in which things are drawn.

Shape suffixes: B rows of a block, D width of a vector.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

ATTEMPTS = 4  # redraws of a step that would repeat an item of the user's history
P_NEW_SESSION = 0.25
VALUES = 4  # of each feature
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hashed(key: Keys, place: Ints | int) -> Keys:
    """SplitMix64's output function at `key + place · golden`; broadcasts. Good both as a hash and as a stream."""
    x = np.atleast_1d(np.asarray(place)).astype(np.uint64) * _GOLDEN + key + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(bits: Keys) -> Floats:
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def directions(key_B: Keys, dimension: int, scale: float) -> NDArray[np.float32]:
    """Random vectors [B, D], uniform in a cube centred on 0, of expected squared length scale²."""
    words = hashed(key_B[:, None], np.arange(-(-dimension // 4)))
    halves = words.astype("<u8", copy=False).view("<u2")[:, :dimension].astype(np.float32)
    return (halves - np.float32(32767.5)) * np.float32(scale * math.sqrt(3 / dimension) / 32767.5)


def zipf(size: Ints | np.int64, uniform_B: Floats, shift: float) -> Ints:
    """Ranks [B] in [0, size) with density ∝ (rank + shift)^(-3/4), by inverse CDF (the exponent makes it two squares)."""
    low, high = math.sqrt(math.sqrt(shift)), np.sqrt(np.sqrt(size + shift))
    root_B = low + uniform_B * (high - low)
    return np.minimum((np.square(np.square(root_B)) - shift).astype(np.int64), size - 1)


def counter(step: Ints | int, attempt: int, purpose: int) -> Ints | int:
    """Counters of a user's stream; those below 64 are left for draws made once a user."""
    return 64 + (step * ATTEMPTS + attempt) * 8 + purpose


def word(key: Keys, step: Ints | int, purpose: int) -> Ints:
    """The number of a feature's value at a step."""
    return (hashed(key, counter(step, 0, purpose)) % np.uint64(VALUES)).astype(np.int64)


def starts_session(key: Keys, step: Ints | int) -> NDArray[np.bool_]:
    """Whether a step begins a session; the first always does."""
    return (uniform(hashed(key, counter(step, 0, 0))) < P_NEW_SESSION) | (np.asarray(step) == 0)


def joined(*parts: pa.Array | str) -> pa.Array:
    """Texts put together, row by row."""
    return pc.binary_join_element_wise(*parts, "")
