"""SIGKILL of a rank or of a whole job, full disks and damaged files: a clear end, a whole checkpoint, the same figures after."""

import os
import signal
import time

import pytest

from intrr_rec.training.trainer import train
from tests import tiny
from tests.faults.job import WORDS as COMMON
from tests.faults.job import FileLimit, Job, KillInSave, KillRank, NoSpace, Slowly
from tests.training.figures import story

pytestmark = pytest.mark.timeout(600)
WORDS = (*COMMON, "train.checkpoint_every=3")
SECONDS_TO_NOTICE = 20


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("killed", [1, 0])
@pytest.mark.slow
def test_a_rank_killed_in_a_step_ends_the_other_which_says_why(line, whole, tmp_path, killed):
    job = Job(line, tmp_path / "run", WORDS, 2, KillRank(killed, step=7))
    job.wait_for_step(7)
    began = time.monotonic()
    codes = job.codes()
    assert time.monotonic() - began < SECONDS_TO_NOTICE
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    (said,) = job.said(1 - killed)
    assert "lost another rank" in said and "the same command goes on" in said
    assert "Traceback" not in job.logs[1 - killed].read_text()
    assert names(tmp_path / "run") == ["best", "step-00000004", "step-00000006"]
    assert Job(line, tmp_path / "run", WORDS, 2).codes() == [0, 0]
    assert story(tmp_path / "run") == whole(2)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_killed_while_it_saves_resumes_to_the_same_figures(line, whole, tmp_path, size, seed):
    """At a random moment of writing the fourth checkpoint (step 8, in place or not), of removing the oldest, or of the next."""
    job = Job(line, tmp_path / "run", WORDS, size, KillInSave(save=4, seed=seed, longest=0.15))
    assert job.codes() == [-signal.SIGKILL] * size
    there = [name for name in names(tmp_path / "run") if name.startswith("step-")]
    # A slow disk may still be at the third, step 6, which the fourth waits for.
    assert there[-1] in [f"step-{step:08}" for step in (4, 6, 8, 9)] and 2 <= len(there) <= 3
    if size == 1:
        train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    else:
        assert Job(line, tmp_path / "run", WORDS, 2).codes() == [0, 0]
    assert names(tmp_path / "run") == ["best", "step-00000009", "step-00000012"]
    assert story(tmp_path / "run") == whole(size)


@pytest.mark.parametrize(
    ("size", "fault", "says"),
    [
        (1, FileLimit(step=5, size=20_000), "File too large"),
        pytest.param(1, NoSpace(step=5, rank=0), "No space left on device", marks=pytest.mark.slow),
        pytest.param(2, NoSpace(step=5, rank=1), "No space left on device", marks=pytest.mark.slow),
    ],
    ids=["limit", "full", "full-on-one-of-two"],
)
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(line, whole, tmp_path, size, fault, says):
    job = Job(line, tmp_path / "run", WORDS, size, fault)
    assert job.codes() == [2] * size
    for rank in range(size):
        (said,) = job.said(rank)
        assert f"step-00000006: cannot be written ({says}; " in said and said.endswith("give the same command again")
        assert "Traceback" not in job.logs[rank].read_text()
    assert names(tmp_path / "run") == ["best", "step-00000003", "step-00000004"]
    assert Job(line, tmp_path / "run", WORDS, size).codes() == [0] * size
    assert story(tmp_path / "run") == whole(size)


@pytest.mark.slow
def test_a_damaged_file_is_found_by_whichever_rank_reads_it(line, whole, tmp_path):
    """Each of two ranks checks a share of the files; both skip the checkpoint, one says so."""
    job = Job(line, tmp_path / "run", WORDS, 2, KillRank(0, step=7))
    job.codes()
    newest = tmp_path / "run/checkpoints/step-00000006"
    os.truncate(newest / "__1_0.distcp", (newest / "__1_0.distcp").stat().st_size - 1)
    again = Job(line, tmp_path / "run", WORDS, 2)
    assert again.codes() == [0, 0]
    warned = [line for line in again.logs[0].read_text().splitlines() if "skipped a checkpoint" in line]
    assert len(warned) == 1 and "step-00000006: is damaged (__1_0.distcp is not what was written)" in warned[0]
    assert "skipped" not in again.logs[1].read_text()
    assert story(tmp_path / "run") == whole(2)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_job_on_the_same_folder_is_refused_and_harms_nothing(line, whole, tmp_path, size):
    first = Job(line, tmp_path / "run", WORDS, size, Slowly())
    first.wait_for_step(2)
    first.signal(signal.SIGSTOP, *range(size))  # so that it is still training, however long the second takes to begin
    second = Job(line, tmp_path / "run", WORDS, size)
    assert second.codes() == [2] * size
    first.signal(signal.SIGCONT, *range(size))
    assert all("run: another job is training there; wait" in second.said(rank)[0] for rank in range(size))
    assert first.codes() == [0] * size
    assert story(tmp_path / "run") == whole(size)
