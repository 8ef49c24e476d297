"""What any test may ask for. The example plug-in is importable by its dotted paths, here and in the processes that tests start."""

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from intrr_rec.io.console import show_to_people
from tests.learned import SEEDS, Learned

PLUGIN = str(Path(__file__).parent.parent / "examples" / "plugin")
sys.path.insert(0, PLUGIN)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PLUGIN, os.environ.get("PYTHONPATH"))))
show_to_people()  # tests read what a person would
settings.register_profile("any machine", deadline=None)  # a busy one is no fault of what is tested
settings.load_profile("any machine")

# A shell starts what goes on in the background deaf to Ctrl-C, and so would be all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc):
    if "learned" in metafunc.fixturenames:
        metafunc.parametrize("learned", range(int(os.environ.get(SEEDS, "1"))), indirect=True, ids="seed{}".format)


@pytest.fixture
def learned(request):
    """Bounds on what an optimization reached; for tests marked `learns`."""
    assert request.node.get_closest_marker("learns"), "mark the test `learns`, so that its margin is measured"
    return Learned(request.node.nodeid, request.param)


@pytest.fixture(scope="session")
def endpoint():
    """An S3-compatible server on this machine; its address."""
    moto = pytest.importorskip("moto.server", reason="requirements/store.txt is not installed (make test-slow does it)")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_environment(endpoint):
    """What a client of that server finds in its environment."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
    return dict(zip(names, ("key", "secret", "us-east-1", endpoint), strict=True))


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """The file system of that server, with a bucket called `bucket`."""
    import pyarrow.fs as pafs

    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    files = pafs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
    files.create_dir("bucket")
    return files


@pytest.fixture(autouse=True)
def threads_as_found():
    """A test that leaves another number of threads changes the last bits of what the tests after it compute."""

    def found():
        torch = sys.modules.get("torch")
        return (torch.get_num_threads() if torch else None, os.environ.get("OMP_NUM_THREADS"))

    before = found()
    yield
    after = found()
    assert before[1] == after[1] and before[0] in (None, after[0]), f"threads, and OMP_NUM_THREADS: {before} -> {after}"
