"""The notebook runs from an empty folder.

Its code cells are plain Python, so they are run as one program: no kernel, and no dependency of Jupyter's for one page.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_an_empty_folder(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "clear the outputs"
    program = "\n\n".join("".join(cell["source"]) for cell in cells)
    program += "\n\nassert len(best.items) == len(set(best.items)) == 5\nprint('RAN', results['epochs'])"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "RAN 3" in done.stdout
    assert "did you mean 'model.window'?" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
