"""The dashboard, the alert rules and the Kubernetes example name what there is: metrics, labels, routes, API fields, options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import typer
import yaml
from kubernetes import client
from prometheus_client import Metric

from intrr_rec.cli import app
from intrr_rec.config import load_recipe
from intrr_rec.serving.http import health
from intrr_rec.serving.http.guard import OPEN
from intrr_rec.serving.http.health import address, is_well
from intrr_rec.serving.http.metrics import Metrics
from tests.distributed.launch import ROOT

MONITORING = ROOT / "configs/monitoring"
KINDS = {
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
}
SCRAPED = {"job", "instance"}  # labels that Prometheus adds
NAME = re.compile(r"\b((?:intrr|process)_\w+)(\{[^}]*\})?")


def known() -> dict[str, set[str]]:
    """Series of a server that has counted everything once → their labels."""
    metrics = Metrics()
    for name in ("requests", "seconds", "ended", "reloads", "bundle"):
        metric = getattr(metrics, name)
        metric.labels(*["x"] * len(metric._labelnames))
    found: dict[str, set[str]] = {}
    family: Metric
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"} and rule["labels"]["severity"], rule["alert"]
            yield rule["expr"]
    for panel in json.loads((MONITORING / "grafana.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def wrong(expression: str, series: dict[str, set[str]]) -> list[str]:
    """Series and labels of an expression that no server has."""
    found = []
    for name, selector in NAME.findall(expression):
        if name not in series:
            found.append(name)
            continue
        labels = set(re.findall(r"(\w+)\s*=", selector)) - SCRAPED
        found += [f"{name}{{{label}}}" for label in sorted(labels - series[name])]
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    every = set().union(SCRAPED, *(series.get(name, set()) for name, _ in NAME.findall(expression)))
    return found + sorted(grouped - every)


def test_every_metric_that_is_watched_exists() -> None:
    series, watched = known(), list(expressions())
    assert len(watched) > 20
    assert {expression: wrong(expression, series) for expression in watched if wrong(expression, series)} == {}
    assert wrong('rate(intrr_request_total{rute="/"}[5m])', series) == ["intrr_request_total"]
    assert wrong('sum by (rute) (intrr_requests_total{statu="2"})', series) == ["intrr_requests_total{statu}", "rute"]


def test_every_metric_is_watched_on_the_dashboard() -> None:
    shown = " ".join(expressions())
    assert {name for name in known() if name.startswith("intrr_") and not re.search(rf"\b{name}\b", shown)} <= {
        "intrr_request_seconds_sum",
        "intrr_request_seconds_count",
        "intrr_queue_seconds_bucket",
        "intrr_model_seconds_bucket",
        "intrr_batch_size_bucket",
    }


def test_values_of_labels_are_those_that_are_counted() -> None:
    source = "".join(path.read_text() for path in (ROOT / "intrr_rec/serving/http").glob("*.py"))
    for label in ("outcome", "reason"):
        for value in set(re.findall(rf'{label}="(\w+)"', " ".join(expressions()))):
            assert f'"{value}"' in source, f"no server counts {label}={value}"
    assert set(re.findall(r'route="([^"]+)"', " ".join(expressions()))) == {"/recommend"}


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("/bin/python /usr/bin/intrr serve work --host 0.0.0.0 --port 81", ("127.0.0.1", 81)),
        ("python -m intrr_rec serve work --port=82 --host=10.0.0.1", ("10.0.0.1", 82)),
        ("intrr serve work", ("127.0.0.1", 8765)),
        ("intrr train --out serve", None),
        ("sleep 9", None),
    ],
)
def test_the_health_of_a_container_is_that_of_its_server(command: str, place: tuple[str, int] | None) -> None:
    assert address(command.split()) == place


def test_a_server_that_answers_is_well() -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        words = ["intrr", "serve", "work", "--port", str(server.server_address[1])]
        assert is_well(words)
        server.shutdown()
    assert not is_well(words)


def test_the_image_asks_for_health() -> None:
    (line,) = re.findall(r"^HEALTHCHECK (?:.|\\\n)*?CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = json.loads(line)
    assert command[:2] == ["python", "-m"] and command[2] == health.__name__


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    trees = list(yaml.safe_load_all((ROOT / "configs/kubernetes/serve.yaml").read_text()))
    assert [tree["kind"] for tree in trees] == list(KINDS)
    api, made = client.ApiClient(), {}
    for tree in trees:

        class Answer:
            data = json.dumps(tree)

        made[tree["kind"]] = api.deserialize(Answer, KINDS[tree["kind"]])
        assert (
            api.sanitize_for_serialization(made[tree["kind"]]) == tree
        )  # a key that is none of the API's would be lost
    return made


def test_the_kubernetes_example_starts_a_server_that_the_probes_reach(example: dict[str, Any]) -> None:
    pod = example["Deployment"].spec.template
    (container,) = pod.spec.containers
    assert container.command[:2] == ["intrr", "serve"]
    words = typer.main.get_command(app).commands["serve"].make_context("serve", container.command[2:]).params  # type: ignore[attr-defined]
    assert (words["host"], words["port"]) == ("0.0.0.0", container.ports[0].container_port)
    asked = load_recipe(None, [word for word in container.command if re.match(r"serve\.\w+=", word)]).serve
    assert asked.drain_seconds < pod.spec.termination_grace_period_seconds
    for probe in (container.startup_probe, container.readiness_probe, container.liveness_probe):
        assert probe.http_get.path in OPEN and probe.http_get.port == container.ports[0].name
    # After SIGTERM the endpoint is taken out before the port is closed.
    assert container.readiness_probe.period_seconds * container.readiness_probe.failure_threshold < asked.drain_seconds
    assert [each.name for each in container.env] == ["INTRR_TOKEN", "OMP_NUM_THREADS"]
    assert container.env[0].value_from.secret_key_ref.key == "token"
    assert pod.spec.security_context.run_as_non_root and container.security_context.read_only_root_filesystem
    assert {each.name for each in container.volume_mounts} == {each.name for each in pod.spec.volumes}


def test_the_kubernetes_objects_name_each_other(example: dict[str, Any]) -> None:
    deployment = example["Deployment"]
    labels = deployment.spec.template.metadata.labels
    assert deployment.spec.selector.match_labels == labels == example["Service"].spec.selector
    assert example["PodDisruptionBudget"].spec.selector.match_labels == labels
    assert example["Service"].spec.ports[0].target_port == deployment.spec.template.spec.containers[0].ports[0].name
    target = example["HorizontalPodAutoscaler"].spec
    assert target.scale_target_ref.name == deployment.metadata.name
    assert target.min_replicas == deployment.spec.replicas > example["PodDisruptionBudget"].spec.min_available
    assert deployment.spec.template.spec.containers[0].resources.requests["cpu"]  # what utilization is measured by
