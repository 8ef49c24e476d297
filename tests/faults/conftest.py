"""What every drill compares with: the miniature line, and runs over it that nothing interrupted."""

import pytest

from tests import tiny
from tests.faults.job import WORDS, Job
from tests.training.figures import story


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="session")
def whole(line, tmp_path_factory):
    """The story of an uninterrupted run, by the number of ranks; checkpoints between validations change none of it."""
    stories = {}

    def tell(size):
        if size not in stories:
            out = tmp_path_factory.mktemp("whole") / "run"
            assert Job(line, out, WORDS, size).codes() == [0] * size
            stories[size] = story(out)
        return stories[size]

    return tell
