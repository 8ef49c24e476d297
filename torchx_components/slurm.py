"""Slurm for TorchX where job accounting is off, and with logs that outlive a requeue.

TorchX asks `squeue --json` for a job's state, whose form changes from one Slurm release to the next, and `sacct` once the
job has ended; without accounting the latter knows nothing. Here `scontrol show job` is asked first. It forgets a job some
minutes after its end (MinJobAge); from then on the job's own log tells how it ended, or `sacct` where there is one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchx.schedulers import slurm_scheduler as base
from torchx.schedulers.api import DescribeAppResponse
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus

# A job of several nodes is one Slurm job a node (a heterogeneous job); it is in the first of these states that any is in.
WORST_FIRST = (AppState.FAILED, AppState.CANCELLED, AppState.RUNNING, AppState.PENDING, AppState.SUCCEEDED)
STATES = {**base.SLURM_STATES, "COMPLETING": AppState.RUNNING, "CONFIGURING": AppState.PENDING}
LAST_WORD = re.compile(r"^job exited with code (\d+)$", re.MULTILINE)


class SlurmScheduler(base.SlurmScheduler):
    """TorchX's scheduler of the same name, with the two changes that the module names."""

    def _submit_dryrun(self, app: AppDef, cfg: Any) -> AppDryRunInfo[base.SlurmBatchRequest]:
        info = super()._submit_dryrun(app, cfg)
        for replica in info.request.replicas.values():
            # A job that is requeued would begin its log anew.
            replica.sbatch_opts["open-mode"] = "append"
            replica.srun_opts["open-mode"] = "append"
        return info

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """State of the job and of each node; None where nobody knows the job."""
        if parts := _ask_controller(app_id):
            return _response(app_id, parts)
        return self._describe_sacct(app_id) or _read_last_word(app_id)


def create_scheduler(session_name: str, **kwargs: Any) -> SlurmScheduler:
    """What TorchX's entry point group `torchx.schedulers` calls."""
    return SlurmScheduler(session_name=session_name)


def _ask_controller(app_id: str) -> list[dict[str, str]]:
    """Fields of each part of the job; none where the controller does not know it."""
    words = ["scontrol", "show", "job", "--oneliner", app_id]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    return [] if said.returncode else _parse(said.stdout)


def _parse(said: str) -> list[dict[str, str]]:
    return [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in said.splitlines()]


def _response(app_id: str, parts: Sequence[Mapping[str, str]]) -> DescribeAppResponse:
    roles: dict[str, Role] = {}
    statuses: dict[str, RoleStatus] = {}
    states, words = [], []
    for part in parts:
        name, _, replica = part["JobName"].rpartition("-")
        if not name or not replica.isdigit():  # not a job of TorchX
            name, replica = part["JobName"], "0"
        state = STATES.get(part["JobState"], AppState.UNKNOWN)
        host = "" if part["NodeList"] == "(null)" else part["NodeList"]
        role = roles.setdefault(name, Role(name=name, image="", num_replicas=0))
        role.num_replicas += 1
        status = statuses.setdefault(name, RoleStatus(name, []))
        status.replicas.append(ReplicaStatus(id=int(replica), role=name, state=state, hostname=host))
        states.append(state)
        words.append(f"{part['JobState']} ({part['Reason']})" if part["Reason"] != "None" else part["JobState"])
    whole = next((state for state in WORST_FIRST if state in states), AppState.UNKNOWN)
    restarts = max(int(part.get("Restarts", 0)) for part in parts)
    return DescribeAppResponse(
        app_id=app_id,
        roles=list(roles.values()),
        roles_statuses=list(statuses.values()),
        state=whole,
        msg=", ".join(dict.fromkeys(words)),
        num_restarts=restarts,
    )


def _read_last_word(app_id: str) -> DescribeAppResponse | None:
    """How the job ended by the last line of its log, in the folder from where it was submitted or in its job_dir."""
    log = Path(base._get_job_dirs().get(app_id, "."), f"slurm-{app_id}.out")
    codes = LAST_WORD.findall(log.read_text(errors="replace")) if log.is_file() else []
    if not codes:
        return None
    state = AppState.SUCCEEDED if codes[-1] == "0" else AppState.FAILED
    return DescribeAppResponse(app_id=app_id, state=state, msg=f"exit code {codes[-1]}, by {log}")
