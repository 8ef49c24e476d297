"""What any test may ask for. The example plug-in is importable by its dotted paths, here and in the processes that tests start."""

import os
import sys
from pathlib import Path

import pytest

from tests.learned import Learned

PLUGIN = str(Path(__file__).parent.parent / "examples" / "plugin")
sys.path.insert(0, PLUGIN)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PLUGIN, os.environ.get("PYTHONPATH"))))


@pytest.fixture
def learned(request):
    """Bounds on what an optimization reached; for tests marked `learns`."""
    assert request.node.get_closest_marker("learns"), "mark the test `learns`, so that its margin is measured"
    return Learned(request.node.nodeid)
