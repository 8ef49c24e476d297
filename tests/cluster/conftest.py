"""One Slurm cluster for all drills, started when the first one wants it."""

import pytest

from tests.cluster.slurm import Slurm, why_not


@pytest.fixture(scope="session")
def slurm():
    if reason := why_not():
        pytest.skip(reason)
    cluster = Slurm()
    yield cluster
    cluster.stop()
