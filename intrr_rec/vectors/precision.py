"""In which numbers matrix products are computed: fp32, or bfloat16 where the processor multiplies it natively."""

from __future__ import annotations

import os
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
# oneDNN keeps a compiled kernel and reordered weights for each shape it has met, up to 1,024 of them in each of two caches.
# Steps of packed histories differ in length, so nearly each is a new shape: .7 GB, for kernels that are soon compiled anew.
SHAPE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def computes_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively: a GPU since Ampere, a CPU with AMX or AVX-512 BF16.

    A CPU held to older kernels (`ATEN_CPU_CAPABILITY`) counts as one that has no newer.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capable = torch.cpu.get_capabilities()
    native = capable.get("amx_bf16") or capable.get("avx512_bf16")
    return bool(native) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def resolve(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """What "auto" means on a device: bf16 where it is native, else fp32; on a CPU bf16 is emulated elsewhere, slower."""
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    return precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Matrix products within are in bfloat16 where `precision` says so; weights and sums stay as they are."""
    enabled = resolve(precision, device) == "bf16"
    if enabled and device.type == "cpu":
        for name, value in SHAPE_CACHES.items():
            os.environ.setdefault(name, value)  # read at the first product in bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
