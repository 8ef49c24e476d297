"""What any test may ask for."""

import pytest

from tests.learned import Learned


@pytest.fixture
def learned(request):
    """Bounds on what an optimization reached; for tests marked `learns`."""
    assert request.node.get_closest_marker("learns"), "mark the test `learns`, so that its margin is measured"
    return Learned(request.node.nodeid)
