"""Write every golden file anew, and remove those of no case."""

import tempfile
from pathlib import Path

from tests import tiny
from tests.golden import CASES, FOLDER, golden_file, write

with tempfile.TemporaryDirectory() as scratch:
    line = tiny.make_line(Path(scratch))
    for name in CASES:
        write(name, line, Path(scratch) / name)
for path in set(FOLDER.glob("*.json")) - {golden_file(name) for name in CASES}:
    path.unlink()
