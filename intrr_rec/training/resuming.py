"""What a run that is gone on with must have kept: its inputs, and every setting that its figures hang on."""

from __future__ import annotations

from pathlib import Path

from intrr_rec.config import Recipe, ShardingConfig, same_run
from intrr_rec.distributed.planner.plan import optimizer_of
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.disk.atomic import is_left_over
from intrr_rec.io.formats.records import read_sealed
from intrr_rec.runs.inputs import Inputs
from intrr_rec.runs.run_files import CONFIG, INPUTS, PLAN_FIGURES, checkpoint_names
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.training.tracking import flatten

# How long and how often; and what changes where and in which order a step's sums are made, not what they are.
FREE = {
    "train.max_minutes",
    "train.patience",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.accumulate",
    "train.loader.workers",
    "train.sharding.uid",
    "train.sharding.codebooks",
    "evaluate.batch_users",
}
TABLES = ("uid", "codebooks")


def require_same_run(inputs: Inputs, out: Path) -> None:
    """Refuse to go on with what is in `out` if it is another run; a folder that is empty or not there is none, nor one whose job was
    killed at its first write.

    Raises:
        ConfigError: a run of another recipe, in what its figures hang on.
        ArtefactError: not a run folder, or a run on another dataset or other Semantic IDs.
    """
    _require_same_recipe(inputs.recipe, out)
    _require_same_inputs(inputs, out)


def _require_same_recipe(recipe: Recipe, out: Path) -> None:
    if not (out / CONFIG).is_file():
        if out.exists() and not all(is_left_over(child, CONFIG) for child in out.iterdir()):
            raise ArtefactError(f"{out}: is not empty and not a run folder; choose another --out")
        return
    if same_run(out / CONFIG, recipe):
        return
    saved = read_recipe(out)
    now, was = (flatten(each.model_dump(mode="json", exclude={"track"})) for each in (recipe, saved))
    changed = [key for key in {**now, **was} if key not in now or key not in was or now[key] != was[key]]
    free = FREE | ({"train.epochs"} if recipe.train.schedule == "constant" else set())
    blocking = sorted(key for key in changed if key not in free and not key.startswith("train.sharding.topology."))
    if blocking:
        raise ConfigError(
            f"{out}: holds a run with another {blocking[0]}; choose another --out, or resume with the same settings"
        )
    if checkpoint_names(out):
        for table in TABLES:
            if f"train.sharding.{table}" in changed:
                _require_same_optimizer(table, saved.train.sharding, recipe.train.sharding, out)


def _require_same_optimizer(table: str, saved: ShardingConfig, asked: ShardingConfig, out: Path) -> None:
    """Refuse another place for a table where another optimizer, with another state, would train it."""
    was = _optimizer(getattr(saved, table), saved) or _planned_optimizer(table, out)
    now = _optimizer(getattr(asked, table), asked)
    if was == now:
        return
    same = [way for way in ("data_parallel", "row_wise", "table_wise", "column_wise") if _optimizer(way, asked) == was]
    raise ConfigError(
        f"train.sharding.{table}={getattr(asked, table)}: the run in {out} trains this table with {was}, "
        f"{now or 'and the planner may choose a place with another optimizer'}{' trains it there' if now else ''}; resume with "
        f"{' or '.join(same)}, or choose another --out"
    )


def _optimizer(way: str, config: ShardingConfig) -> str | None:
    """What trains a table that lies so; None where the planner decides. Replicated tables share the optimizer of dense parameters."""
    if way == "auto":
        return None
    return "the dense Adam" if way == "data_parallel" else optimizer_of(way, config, training=True)


def _planned_optimizer(table: str, out: Path) -> str:
    """What trained it by the plan that was made for the run.

    Raises:
        ArtefactError: the plan is gone, was altered, or does not tell.
    """
    fix = f"put the file back, or resume with train.sharding.{table}=auto"
    figures = read_sealed(out / PLAN_FIGURES, fix)
    try:
        (found,) = (each for each in (figures or {})["tables"] if each["name"] == table)
        return "the dense Adam" if found["sharding"] == "data_parallel" else str(found["optimizer"])
    except (ValueError, KeyError, TypeError):
        raise ArtefactError(f"{out / PLAN_FIGURES}: does not tell where table {table} lay; {fix}") from None


def _require_same_inputs(inputs: Inputs, out: Path) -> None:
    if not (out / INPUTS).exists():
        if checkpoint_names(out):
            raise ArtefactError(f"{out}: has checkpoints but no {INPUTS}; put it back, or choose another --out")
        return
    then = read_run_record(out)
    for role, found in inputs.hashes().model_dump().items():
        if (was := getattr(then.hashes, role)) != found:
            raise ArtefactError(
                f"{out}: holds a run on another {role.replace('_', '-')} ({was[:12]}, from {getattr(then.paths, role)}; given "
                f"is {found[:12]}), and its weights mean nothing here; choose another --out, or --init-from {out}"
            )
