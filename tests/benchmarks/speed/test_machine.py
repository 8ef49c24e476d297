"""A figure's machine says which code made it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.speed import machine


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_code_is_named_by_release_and_commit_and_edits_are_marked(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    file = tmp_path / "intrr_rec" / "bench" / "machine.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1")
    monkeypatch.setattr(machine, "__file__", str(file))
    assert "(" not in machine.code_version()
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:10]
    assert machine.code_version().endswith(f"({commit})")
    file.write_text("x = 2")
    assert machine.code_version().endswith(f"({commit}+)")


def test_this_checkout_is_recognised():
    in_checkout = (Path(machine.__file__).parents[2] / ".git").exists()
    assert ("(" in machine.code_version()) == in_checkout
