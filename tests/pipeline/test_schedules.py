"""The examples that start the pipeline every night: each is what its scheduler takes, and starts a command that there is."""

from __future__ import annotations

import ast
import json
import re
import shlex

import typer
import yaml
from kubernetes import client

from intrr_rec.cli import app
from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import load_pipeline
from tests.distributed.launch import ROOT

SCHEDULES = ROOT / "configs/schedules"
NIGHTLY = "30 3 * * *"


def takes(command: str) -> bool:
    """Whether a shell line ends with an `intrr pipeline` that the command line takes."""
    words = shlex.split(command.split("&&")[-1])
    verbs = typer.main.get_command(app)
    assert words[0].endswith("intrr"), words
    return verbs.commands[words[1]].make_context(words[1], words[2:]).params["file"].name == "daily.yaml"  # type: ignore[attr-defined]


def test_the_example_of_a_day_has_all_stages() -> None:
    stages = stages_of(load_pipeline(ROOT / "configs/pipelines/daily.yaml"))
    named = ["prepare", "embed", "index", "train", "evaluate", "export", "promote"]
    assert [stage.name for stage in stages] == named
    for stage in stages:
        if stage.name not in ("prepare", "evaluate"):  # the first day's; a run that is not there yet has no folder
            assert stage.job().name == stage.name


def test_scrontab() -> None:
    lines = [line for line in (SCHEDULES / "scrontab").read_text().splitlines() if line]
    options = [line for line in lines if line.startswith("#SCRON ")]
    assert all(re.fullmatch(r"#SCRON --[a-z-]+=\S+", line) for line in options) and len(options) > 3
    (line,) = [line for line in lines if not line.startswith("#")]
    assert line.startswith(f"{NIGHTLY} ") and takes(line.removeprefix(NIGHTLY))


def test_cron_line_of_the_page() -> None:
    (line,) = re.findall(r"^\| cron \| `([^`]+)`", (ROOT / "docs/daily.md").read_text(), re.MULTILINE)
    assert line.startswith(f"{NIGHTLY} ") and takes(line.removeprefix(NIGHTLY))


def test_cron_job_is_what_the_api_takes() -> None:
    tree = yaml.safe_load((SCHEDULES / "cronjob.yaml").read_text())
    api = client.ApiClient()

    class Answer:
        data = json.dumps(tree)

    job = api.deserialize(Answer, "V1CronJob")
    assert api.sanitize_for_serialization(job) == tree  # a key that is none of the API's would be lost
    assert (job.api_version, job.kind, job.spec.schedule) == ("batch/v1", "CronJob", NIGHTLY)
    assert job.spec.concurrency_policy == "Forbid"
    pod = job.spec.job_template.spec.template.spec
    (container,) = pod.containers
    assert takes(shlex.join(container.command))
    assert container.volume_mounts[0].name == pod.volumes[0].name


def test_dag() -> None:
    tree = ast.parse((SCHEDULES / "airflow_dag.py").read_text())
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    dag = {word.arg: word.value for word in calls["DAG"].keywords}
    task = {word.arg: word.value for word in calls["BashOperator"].keywords}
    assert ast.literal_eval(dag["schedule"]) == NIGHTLY and ast.literal_eval(dag["max_active_runs"]) == 1
    command = "".join(
        str(part.value) if isinstance(part, ast.Constant) else "/SHARED"
        for part in task["bash_command"].values  # type: ignore[attr-defined]
    )
    assert takes(command)
