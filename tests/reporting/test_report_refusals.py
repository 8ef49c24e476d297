"""What a report refuses: parts that cannot be read or were altered, a folder that is no run, a disk that takes nothing."""

from __future__ import annotations

import json

import pytest

from intrr_rec.config import Recipe, save_recipe
from intrr_rec.errors import ArtefactError
from intrr_rec.io.formats.records import sealed, sealed_text
from intrr_rec.reporting.report import write_report
from intrr_rec.runs.metrics_file import metric_line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", metric_line({"step": 1, "split": "train"}) + "\nnot json\n", "line 2: is not JSON"),
        (
            "metrics.jsonl",
            metric_line({"step": 1, "split": "train"}).replace("1", "2", 1) + "\n",
            "line 1: was altered",
        ),
        ("metrics.jsonl", '{"loss": 1}\n', "line 1: is no object with 'step' and 'split'"),
        ("results.json", "{", "is not JSON"),
        ("results.json", json.dumps(sealed({"test": {"recall@10": "high"}})), "'test.recall@10'"),
        ("results.json", '{"test": {"recall@10": 0.5}}', "has no 'sha256'"),
        ("results.json", "[]", "has no 'sha256'"),
        ("inspection.json", json.dumps(sealed({"examples": [{"user_id": 1}]})), "'examples.0.history'"),
        ("plan.txt", b"\xff\xfe\x00", "cannot be read"),
        ("plan.txt", sealed_text("a plan\n").replace("a plan", "b plan"), "was altered"),
        ("plan.txt", "a plan\n", "was altered"),
        ("config.yaml", sealed_text("train: {epochs: 1}\n").replace("1}", "2}"), "was altered"),
    ],
)
def test_unreadable_part_is_one_line_and_writes_nothing(tmp_path, name, content, said):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtefactError) as caught:
        write_report(tmp_path)
    assert said in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_run_folder_is_one_line(tmp_path):
    with pytest.raises(ArtefactError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match=r"has no config\.yaml"):
        write_report(tmp_path)


def test_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    (tmp_path / "report.html").write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("intrr_rec.io.artefact.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "report.html"]
