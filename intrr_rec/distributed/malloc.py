"""Memory of a CPU process between the steps of its work."""

from __future__ import annotations

import ctypes

# glibc's names (malloc.h) and the largest threshold it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Keep what a step frees for the next step instead of handing it back to the kernel; False where there is no such libc.

    A step allocates and frees the same tensors as the one before. Handed back, their pages come again one fault each, zeroed
    by the kernel. Up to a GiB at the top of the heap stays; tensors above 32 MiB still come from the kernel one by one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
