"""Components are valid to TorchX, their words are ones that the verbs take, and schedulers are handed what they should be."""

import shlex

import pytest
import typer
from torch.distributed.run import get_args_parser
from torchx import specs
from torchx.components.component_test_base import ComponentTestCase
from torchx.schedulers import get_scheduler_factories
from torchx.specs.finder import ComponentValidationException, get_component

from intrr_rec.cli import app as intrr
from tests.cluster.specs import GOLDEN, SCHEDULERS, examples, rendered
from torchx_components import jobs, resources

VERBS = sorted(examples())


@pytest.mark.parametrize("verb", VERBS)
def test_torchx_finds_no_fault(verb):
    ComponentTestCase().validate(jobs, verb)
    assert get_component(f"intrr.{verb}").fn is getattr(jobs, verb)


def test_a_day_more_is_a_job() -> None:
    start = jobs.train(dataset="d", semantic_ids="s", out="today", init_from="yesterday").roles[0].args[-1]
    assert "--init-from yesterday" in start
    words = jobs.prepare(interactions=["day.parquet"], out="d", append=True).roles[0].args
    assert words[-1] == "--append" and "--engine" in words


@pytest.mark.parametrize("verb", [verb for verb in VERBS if examples()[verb].roles[0].entrypoint == "bash"])
def test_torchrun_reads_nodes_ranks_and_restarts_out_of_the_job(verb, monkeypatch):
    role = examples()[verb].roles[0]
    for name, value in role.env.items():
        monkeypatch.setenv(name, value)
    program, *words = shlex.split(role.args[-1])
    read = get_args_parser().parse_args(words)
    assert (program, read.module, read.training_script, read.training_script_args[0]) == (
        "torchrun",
        True,
        "intrr_rec",
        verb,
    )
    assert read.training_script_args == words[words.index(verb) :]
    assert (read.nnodes, read.max_restarts) == (str(role.num_replicas), 2 if verb == "train" else 0)
    cores = role.resource.cpu
    assert int(role.env["OMP_NUM_THREADS"]) == max(1, cores // int(read.nproc_per_node))


def test_a_server_says_where_it_listens():
    assert "containerPort: 8000" in rendered(examples()["serve"], "kubernetes")


def test_no_component_is_without_an_example():
    there = {name for name, value in vars(jobs).items() if getattr(value, "__module__", "") == jobs.__name__}
    assert {name for name in there if not name.startswith("_")} == set(VERBS)


def test_installing_this_package_takes_nothing_of_torchx_away():
    assert get_component("dist.ddp") and get_component("utils.sh")
    assert set(get_scheduler_factories()) >= {*SCHEDULERS, "local_docker"}


@pytest.mark.parametrize("name", [name for name in vars(resources) if name.startswith(("cpu_", "gpu_"))])
def test_resources_go_by_their_names(name):
    assert specs.resource(h=name) == getattr(resources, name)()


@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_takes_the_words_of_its_component(verb):
    role = examples()[verb].roles[0]
    words = shlex.split(role.args[-1]) if role.entrypoint == "bash" else role.args
    command = typer.main.get_command(intrr).commands[verb]
    command.make_context(verb, words[words.index(verb) + 1 :])  # refuses an option it does not know, or one that lacks


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("verb", VERBS)
def test_dry_run(verb, scheduler):
    app = examples()[verb]
    text = rendered(app, scheduler)
    assert "intrr_rec" in text and verb in text
    if scheduler in ("kubernetes", "aws_batch"):
        assert jobs.IMAGE in text
    if scheduler == "kubernetes":
        assert "restartPolicy: Never" in text and f"maxRetry: {app.roles[0].max_retries}\n" in text


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_what_schedulers_are_handed(path):
    """Written by `python -m tests.cluster.specs`; a change of these files is a change of what runs on a cluster."""
    verb, _, scheduler = path.stem.partition("-")
    assert rendered(examples()[verb], scheduler) == path.read_text()


URL = "nosuch://bucket/x"
PATHS = [
    ("prepare", {"interactions": [URL], "out": "d"}, "--interactions"),
    ("prepare", {"interactions": ["x"], "out": URL}, "--out"),
    ("embed", {"dataset": URL, "out": "v"}, "--dataset"),
    ("index", {"dataset": "d", "vectors": URL, "out": "s"}, "--vectors"),
    ("train", {"dataset": "d", "semantic_ids": URL, "out": "r"}, "--semantic-ids"),
    ("evaluate", {"run": URL}, "--run"),
    ("export", {"run": URL, "out": "b"}, "run"),
    ("recommend", {"bundle": "b", "out": "r", "events": URL}, "--events"),
    ("promote", {"bundle": "b", "over": URL, "on": "d"}, "--over"),
    ("serve", {"bundle": URL}, "bundle"),
]


def test_each_component_has_a_row():
    assert {verb for verb, _, _ in PATHS} == set(VERBS)


@pytest.mark.parametrize(("verb", "words", "option"), PATHS)
def test_a_url_of_no_store_is_refused_before_the_job_is_made(verb, words, option):
    with pytest.raises(ComponentValidationException, match=f"^intrr.{verb}: {option}: {URL}: no file system for such"):
        getattr(jobs, verb)(**words)


@pytest.mark.parametrize(("verb", "words", "option"), PATHS)
def test_a_url_of_a_store_goes_to_the_job_as_it_is(verb, words, option):
    stored = "s3://bucket/x"
    asked = {name: [stored] if value == [URL] else stored if value == URL else value for name, value in words.items()}
    assert stored in " ".join(getattr(jobs, verb)(**asked).roles[0].args)


def test_a_value_that_the_verb_refuses_is_refused_at_once():
    with pytest.raises(ComponentValidationException, match=r"^intrr.export: .*float33"):
        jobs.export(run="r", out="b", rows="float33")
