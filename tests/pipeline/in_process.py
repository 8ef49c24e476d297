"""The jobs of a pipeline's stages, done by their own verbs in this process."""

from __future__ import annotations

from pathlib import Path

from torchx.specs import AppDef
from typer.testing import CliRunner

from intrr_rec.cli import app
from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import load_pipeline
from torchx_components.launch import words_of


def do(job: AppDef) -> str:
    """What a job's verb prints; it must end well."""
    done = CliRunner().invoke(app, words_of(job))
    assert done.exit_code == 0, done.output
    return done.output


def bring(path: Path, until: str | None = None) -> dict[str, list[str]]:
    """The words of the jobs that a start of the pipeline does, by stage, as `run_pipeline` does them.

    Args:
        until: the stage before which the start is killed.
    """
    done = {}
    for stage in stages_of(load_pipeline(path)):
        if stage.name == until:
            break
        if stage.fault() is not None:
            job = stage.job()
            done[stage.name] = words_of(job)
            do(job)
        assert stage.fault() is None, stage.name
        stage.after()
    return done
