"""Named resources: what one node (a replica) of a job asks for. `-h NAME` of a component chooses one.

Sizes are what to ask of a node, a little below what such a machine has, since schedulers keep some for themselves.
"""

from torchx.specs import Resource

GIB = 1024  # MiB


def cpu_small() -> Resource:
    """A laptop's share: the demo, tests."""
    return Resource(cpu=1, gpu=0, memMB=3 * GIB)


def cpu_medium() -> Resource:
    """Preparation and indexing of millions of items."""
    return Resource(cpu=8, gpu=0, memMB=30 * GIB)


def cpu_large() -> Resource:
    """Preparation of billions of events."""
    return Resource(cpu=32, gpu=0, memMB=120 * GIB)


def gpu_a100_1() -> Resource:
    """One A100."""
    return Resource(cpu=12, gpu=1, memMB=120 * GIB)


def gpu_a100_8() -> Resource:
    """A node of eight A100."""
    return Resource(cpu=92, gpu=8, memMB=1000 * GIB)


def gpu_h100_1() -> Resource:
    """One H100."""
    return Resource(cpu=22, gpu=1, memMB=180 * GIB)


def gpu_h100_8() -> Resource:
    """A node of eight H100."""
    return Resource(cpu=184, gpu=8, memMB=1800 * GIB)
