"""Two ranks in network namespaces of their own, and the link between them cut: for a while, or for good."""

import os
import shutil
import subprocess
import time
import uuid

import pytest

from tests.faults.job import WORDS as COMMON
from tests.faults.job import Job, Net, Slowly
from tests.training.figures import story

WORDS = (*COMMON, "train.checkpoint_every=3")
TIMEOUT = 10.0
IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def ip(*words):
    subprocess.run([IP, *words], check=True, capture_output=True, text=True)


@pytest.fixture
def net():
    """Two namespaces and a cable between them."""
    if IP is None or os.geteuid() != 0:
        pytest.skip("DRILL NOT RUN: the network drills need `ip` (Debian package iproute2) and root")
    tag = uuid.uuid4().hex[:6]
    names = [f"ir{tag}a", f"ir{tag}b"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", name, "up")
        yield Net(names, "10.77.0.1", TIMEOUT)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"DRILL NOT RUN: this system makes no network namespaces ({error.stderr.strip()})")
    finally:
        for name in names:
            subprocess.run([IP, "netns", "del", name], check=False, capture_output=True)


def link(net, state):
    ip("-n", net.names[1], "link", "set", net.names[1], state)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_link_that_is_down_for_a_while_is_waited_for(line, whole, tmp_path, net):
    job = Job(line, tmp_path / "run", WORDS, 2, Slowly(), net)
    job.wait_for_step(4)
    link(net, "down")
    time.sleep(TIMEOUT / 3)
    link(net, "up")
    assert job.codes() == [0, 0]
    assert story(tmp_path / "run") == whole(2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_link_that_stays_down_ends_the_job_in_bounded_time_and_one_line(line, whole, tmp_path, net):
    job = Job(line, tmp_path / "run", WORDS, 2, Slowly(), net)
    job.wait_for_step(7)
    link(net, "down")
    began = time.monotonic()
    assert job.codes() == [1, 1]
    assert time.monotonic() - began < 3 * TIMEOUT
    for rank in range(2):
        (said,) = job.said(rank)
        assert "lost another rank" in said and "the same command goes on" in said
        assert "Traceback" not in job.logs[rank].read_text()
    link(net, "up")
    assert Job(line, tmp_path / "run", WORDS, 2, None, net).codes() == [0, 0]
    assert story(tmp_path / "run") == whole(2)
