"""What any test may ask for. The example plug-in is importable by its dotted paths, here and in the processes that tests start."""

import os
import sys
from pathlib import Path

import pytest

from intrr_rec.io.console import show_to_people
from tests.learned import SEEDS, Learned

PLUGIN = str(Path(__file__).parent.parent / "examples" / "plugin")
sys.path.insert(0, PLUGIN)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PLUGIN, os.environ.get("PYTHONPATH"))))
show_to_people()  # tests read what a person would


def pytest_generate_tests(metafunc):
    if "learned" in metafunc.fixturenames:
        metafunc.parametrize("learned", range(int(os.environ.get(SEEDS, "1"))), indirect=True, ids="seed{}".format)


@pytest.fixture
def learned(request):
    """Bounds on what an optimization reached; for tests marked `learns`."""
    assert request.node.get_closest_marker("learns"), "mark the test `learns`, so that its margin is measured"
    return Learned(request.node.nodeid, request.param)
