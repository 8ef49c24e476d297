"""What a step frees stays with the process."""

import subprocess
import sys

import pytest

FREE = """
import ctypes, psutil
from intrr_rec.distributed.malloc import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
libc, size = ctypes.CDLL(None), 8 << 20
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(size) for _ in range(20)]
for block in blocks:
    ctypes.memset(block, 1, size)
full = psutil.Process().memory_info().rss
for block in reversed(blocks):
    libc.free(block)
print((full - psutil.Process().memory_info().rss) // size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.parametrize(("kept", "blocks_lost"), [(True, 0), (False, 20)])
def test_freed_blocks_stay_only_where_asked_for(kept, blocks_lost):
    command = [sys.executable, "-c", FREE.format(kept=kept)]
    found = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found == pytest.approx(blocks_lost, abs=1)
