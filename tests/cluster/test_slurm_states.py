"""States of a Slurm job without accounting: as the controller tells them (lines of Slurm 22.05), or the job's own log."""

import pytest
from torchx.specs import AppState

from torchx_components.slurm import _parse, _read_last_word, _response

LINE = (
    "JobId={id} HetJobId=1 HetJobOffset={node} JobName=train-{node} UserId=root(0) GroupId=root(0) JobState={state} "
    "Reason={reason} Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 ExitCode=0:0 NodeList={host} "
    "BatchHost=d{node} TRES=cpu=1,node=1,billing=1 Command=/work/torchx-sbatch.sh WorkDir=/work/a b Power= "
)


def told(*states, restarts=0, reason="None"):
    lines = [
        LINE.format(
            id=node + 1,
            node=node,
            state=state,
            reason=reason,
            restarts=restarts,
            host="(null)" if state == "PENDING" else f"d{node}",
        )
        for node, state in enumerate(states)
    ]
    return _response("1", _parse("\n".join(lines)))


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (("PENDING", "PENDING"), AppState.PENDING),
        (("RUNNING", "PENDING"), AppState.RUNNING),
        (("COMPLETING", "COMPLETED"), AppState.RUNNING),
        (("COMPLETED", "COMPLETED"), AppState.SUCCEEDED),
        (("COMPLETED", "FAILED"), AppState.FAILED),
        (("CANCELLED", "NODE_FAIL"), AppState.FAILED),
        (("CANCELLED", "COMPLETED"), AppState.CANCELLED),
        (("SOMETHING_NEW",), AppState.UNKNOWN),
    ],
)
def test_a_job_is_in_the_worst_state_of_its_nodes(states, whole):
    job = told(*states)
    assert job.state == whole
    assert [replica.id for replica in job.roles_statuses[0].replicas] == list(range(len(states)))
    assert job.roles[0].num_replicas == len(states)


def test_a_requeued_job_says_why_it_waits_and_how_often_it_was_started():
    job = told("PENDING", "PENDING", restarts=2, reason="BeginTime")
    assert (job.state, job.msg, job.num_restarts) == (AppState.PENDING, "PENDING (BeginTime)", 2)
    assert {replica.hostname for replica in job.roles_statuses[0].replicas} == {""}


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("job exited with code 0\n", AppState.SUCCEEDED),
        ("job exited with code 1\n", AppState.FAILED),
        # requeued by its script, then well; `set -v` shows the line of the script, too
        ('echo "job exited with code $exitcode"\njob exited with code 1\njob exited with code 0\n', AppState.SUCCEEDED),
    ],
)
def test_a_job_the_controller_forgot_is_known_by_its_log(tmp_path, monkeypatch, log, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / ".torchxslurmjobdirs").write_text(f"6 = /elsewhere\n7 = {tmp_path / 'jobs'}\n")
    (tmp_path / "jobs" / "slurm-7.out").write_text(log)
    assert _read_last_word("7").state == state
    assert _read_last_word("6") is None and _read_last_word("5") is None
