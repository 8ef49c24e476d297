"""What a launcher left in the environment: used where it makes sense, refused in a line where it does not; ranks that do not come are named."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ConfigError
from intrr_rec.io.launcher import Ranks, patience
from tests.distributed.launch import free_port

JOIN = (
    "import logging, sys; logging.basicConfig(); from intrr_rec.cli.process.errors import complain\n"
    "from intrr_rec.distributed.world import join_world\nfrom intrr_rec.errors import UserError\n"
    "try:\n    with join_world() as world: print(world.rank, world.size)\n"
    "except UserError as error: sys.exit(complain(str(error), 2))"
)


def start(**variables: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    words = [sys.executable, "-c", JOIN]
    return subprocess.Popen(words, env=kept | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "0"}, "RANK is 0, but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', not a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK is 0, but WORLD_SIZE is 0"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "not a whole number"),
    ],
)
def test_variables_that_make_no_sense_are_refused(variables, says, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, variables.get(name, ""))
    with pytest.raises(ConfigError, match=says) as met:
        Ranks.from_environment()
    assert "unset RANK WORLD_SIZE" in str(met.value)


def test_variables_set_to_nothing_count_as_not_set(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert Ranks.from_environment() == Ranks(0, 1, launched=False)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_patience_that_is_no_time_is_refused(text, monkeypatch):
    monkeypatch.setenv("INTRR_RANKS_TIMEOUT", text)
    with pytest.raises(ConfigError, match="INTRR_RANKS_TIMEOUT"):
        patience()


def test_a_rank_that_never_comes_is_named_and_given_up():
    waiting = start(
        RANK="0", WORLD_SIZE="3", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), INTRR_RANKS_TIMEOUT="4"
    )
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 2 and "Traceback" not in said
    assert "rank 0 of 3 waits at 127.0.0.1" in said and "for ranks 1, 2" in said
    assert "intrr: rank 0 of 3: ranks 1, 2 did not come within 4 s" in said


@pytest.mark.slow
def test_a_first_rank_that_never_comes_is_named_and_given_up():
    waiting = start(
        RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), INTRR_RANKS_TIMEOUT="5"
    )
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 2 and "Traceback" not in said
    assert "rank 1 of 2 waits for rank 0" in said and "intrr: rank 1 of 2: rank 0 did not answer" in said


@pytest.mark.slow
def test_a_port_that_another_program_has_is_told():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        first = start(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        _, said = first.communicate(timeout=120)
        alone = start(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        out, _ = alone.communicate(timeout=120)
    assert first.returncode == 2 and "is in use by another program" in said and "Traceback" not in said
    assert alone.returncode == 0 and out.strip() == "0 1"


@pytest.mark.slow
def test_ranks_that_come_late_are_waited_for():
    port = str(free_port())
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    second = start(RANK="1", **env)
    first = start(RANK="0", **env)
    assert sorted(job.communicate(timeout=120)[0].strip() for job in (first, second)) == ["0 2", "1 2"]


@pytest.mark.parametrize(("ranks_here", "within"), [("1", 4), ("2", 2), ("8", 1)])
def test_ranks_of_a_host_share_the_threads_there_are_and_leave_as_many_as_before(ranks_here, within, monkeypatch):
    """A program that uses the library computes with as many threads after a training as before it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks_here)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with join_world():
            assert torch.get_num_threads() == within
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
