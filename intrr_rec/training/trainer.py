"""The training loop: one causal pass a step, validation by the real decode, early stopping, resumable.

A run is exact to repeat: the order of windows depends on (seed, epoch) alone, dropout is seeded by (seed, step, rank), and
a checkpoint holds the sums of the epoch under way, so a run resumed at any step continues as if it had never stopped.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intrr_rec.config import Recipe, save_recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.counts import alone
from intrr_rec.data.loading.loader import Loader
from intrr_rec.distributed.parallelize import META, Parallel, parallelize
from intrr_rec.distributed.step_counts import CountExchange
from intrr_rec.distributed.world import World, is_lost_rank, join_world
from intrr_rec.distributed.zch import managed_figures
from intrr_rec.errors import ConfigError, DataError, PlaceError, Stopped
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.evaluation.results import FIX, write_results
from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.stores.storage import Location
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.runs.folder import MetricsLog, claimed, write_plan
from intrr_rec.runs.inputs import Inputs, open_inputs
from intrr_rec.runs.neighbours import untrained
from intrr_rec.runs.run_files import CONFIG, NO_CHECKPOINT, checkpoint_names
from intrr_rec.runs.run_record import write_run_record
from intrr_rec.training.finite import FiniteGuard
from intrr_rec.training.progress import EpochProgress
from intrr_rec.training.resuming import require_same_run
from intrr_rec.training.schedule import Schedule
from intrr_rec.training.signals import EXIT_CODES, StopSignals
from intrr_rec.training.step import TrainingStep
from intrr_rec.training.tracking import Tracking
from intrr_rec.training.warm_start import Start

log = logging.getLogger(__name__)
SELECT_BY = "recall@10"
OnFigures = Callable[[str, int, dict[str, float]], None]


def train(
    recipe: Recipe,
    *,
    dataset: Location,
    semantic_ids: Path,
    vectors: Path | None,
    out: Path,
    init_from: Path | None = None,
    command: str | None = None,
    on_figures: OnFigures | None = None,
) -> dict[str, Any]:
    """Train to early stopping and evaluate the best checkpoint on the test split; resumes a run of the same recipe.

    Args:
        command: kept with the run, to be shown; None is the command line of this process.
        on_figures: called by the main rank with (split, epoch, figures) whenever figures are recorded.
        init_from: a run whose weights it starts from (`warm_start`), unless it has checkpoints of its own already.

    Raises:
        ConfigError: `out` holds a run of another recipe.
        ArtefactError: `out` holds a run on another dataset or other Semantic IDs, or another job is training there.
        TrainingError: a loss or a weight is no longer a finite number.
        ArtefactError, DataError: see `open_inputs`; no user is long enough to learn from; the run has checkpoints but none
            that is whole.
        PlaceError: a checkpoint or a result cannot be written.
        Stopped: SIGTERM or SIGINT came, and all is saved; or another rank was lost.
    """
    inputs = open_inputs(recipe, dataset, semantic_ids, vectors)
    recipe = inputs.recipe
    if init_from is not None and not recipe.model.kind_settings.learns:
        raise ConfigError(f"--init-from: model.kind {recipe.model.kind} is not trained; leave it out")
    if recipe.train.since is not None and not recipe.model.kind_settings.learns:
        raise ConfigError(f"train.since: model.kind {recipe.model.kind} is not trained; leave it out")
    require_same_run(inputs, out)
    fresh = not any(name.startswith("step-") for name in checkpoint_names(out))
    start = Start.open(init_from, inputs) if init_from and fresh else None
    paths = {"dataset": dataset, "semantic_ids": semantic_ids, "vectors": vectors, "init_from": init_from}
    try:
        # The main rank writes to `out` only when every rank has looked at what is there.
        with writing_to(out, FIX), join_world() as world, claimed(out, world), Tracking(recipe, out, world) as tracking:

            def record() -> None:
                tracking.prepare()
                if world.is_main:
                    save_recipe(recipe, out / CONFIG)
                    write_run_record(out, paths, inputs.hashes(), command or shlex.join(["intrr", *sys.argv[1:]]))
                    tracking.begin(inputs.hashes().model_dump())

            world.agree(record)
            if not recipe.model.kind_settings.learns:
                model, made = untrained(inputs, world)
                return tracking.finish(write_results(out, Evaluator(model, inputs, world), made, NO_CHECKPOINT))
            run = Trainer(inputs, out, world, start, on_figures, tracking)
            with run.stop, run.checkpoints:
                run.fit()
                loaded, state = run.checkpoints.load_best()
                best_epoch = {"best_epoch": state["best_epoch"]}
                run.evaluator.use(state.get("ranking"))
                return tracking.finish(write_results(out, run.evaluator, run.state | best_epoch, loaded))
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        line = f"lost another rank, whose own output tells why; the same command goes on from the newest checkpoint ({error})"
        raise Stopped(" ".join(line.split()), 1) from None


class Trainer:
    """One run on one rank; picks up from the newest whole checkpoint in `out` where there is one.

    Args:
        inputs: what it learns from.
        out: the run folder.
        world: this rank among its peers.
        start: the run to start from where `out` has nothing yet.
        on_figures: called by the main rank with (split, epoch, figures) whenever figures are recorded.
        tracking: gets them as well.
    """

    def __init__(
        self,
        inputs: Inputs,
        out: Path,
        world: World,
        start: Start | None = None,
        on_figures: OnFigures | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.on_figures, self.tracking = on_figures, tracking
        config = inputs.recipe.train
        windows = inputs.training_windows()
        if not len(windows):
            raise DataError(f"{inputs.dataset.path}: no user has the four events that training needs; lower the k-core")
        self.inputs, self.out, self.world, self.config = inputs, out, world, config
        asked = time.monotonic(), time.process_time()
        self.parallel: Parallel = parallelize(inputs.model(META), world, inputs.recipe)
        started = {
            "start_seconds": round(time.monotonic() - asked[0], 2),
            "start_processor_seconds": round(time.process_time() - asked[1], 2),
        }
        self.stop = StopSignals(world)
        self.evaluator = Evaluator(self.parallel.model, inputs, world, between=self._heed)
        self.finite = FiniteGuard(out, world)
        self.make_step = TrainingStep(self.parallel, config, world)
        self.loader = Loader(
            windows,
            inputs.collator(training=True),
            config.batch_users,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
            rank=world.rank,
            ranks=world.size,
            micro_batches=config.accumulate,
            workers=config.loader.workers,
            exchange=CountExchange(world) if world.size > 1 else alone,
        )
        self.schedule = Schedule(self.parallel.optimizer, config, config.epochs * self.loader.steps)
        # Epochs done; steps done of the next one, and what they came to; steps in all; lines of figures that are final.
        self.state: dict[str, Any] = {"epoch": 0, "epoch_step": 0, "partial": None, "step": 0, "lines": 0}
        self.state |= {"best": -1.0, "best_epoch": 0, "stale": 0, "seconds": 0.0}
        self.checkpoints = Checkpoints(out, self.parallel, world)
        if (saved := self.checkpoints.load_newest()) is not None:
            self.state = saved
            log.info("resuming %s after epoch %d and %d steps", out, self.state["epoch"], self.state["epoch_step"])
        elif start is not None:
            start.load(inputs, self.parallel, world)
        self._saved_step = self.state["step"]
        self._progress: EpochProgress | None = None
        self.figures: MetricsLog | None = None
        world.agree(lambda: self._open_records(out, started))

    def _open_records(self, out: Path, started: dict[str, Any]) -> None:
        if not self.world.is_main:
            return
        write_plan(out, str(self.parallel.plan), self.parallel.plan.as_dict() | started)
        log.info("sharding plan:\n%s", self.parallel.plan)
        self.figures = MetricsLog(out, self.state["lines"], self.state["step"], self.state["seconds"])

    def fit(self) -> None:
        """Epochs until the limit, the patience or the clock runs out."""
        while not self._finished():
            epoch = self.state["epoch"] + 1
            whole = self._train_epoch(epoch)
            out_of_time = not whole or self._out_of_time()
            due = epoch % self.config.validate_every == 0 or out_of_time or epoch >= self.config.epochs
            metrics = self._validate(epoch) if due else None
            reached = f"epoch {epoch} of {self.config.epochs}"
            if whole:
                self.state |= {"epoch": epoch, "epoch_step": 0, "partial": None}
            else:
                reached = f"step {self.state['epoch_step']:,} of {self.loader.steps:,} of {reached}"
            self._progress = None
            self.state["lines"] = self.figures.lines if self.figures else 0
            if metrics:
                self._keep(metrics, epoch)
            if out_of_time:
                if self.world.is_main and not (whole and epoch >= self.config.epochs):
                    log.warning(
                        "stopped by train.max_minutes=%g, %s; the same command with more minutes goes on from there",
                        self.config.max_minutes,
                        reached,
                    )
                break
        self.checkpoints.wait()
        if self.figures:
            self.figures.close()

    def _train_epoch(self, epoch: int) -> bool:
        """The rest of the epoch, and its line of figures; False where the clock ran out within it."""
        state, every = self.state, self.config.checkpoint_every
        self.parallel.module.train()
        done = state["epoch_step"]
        with EpochProgress(
            f"epoch {epoch} of {self.config.epochs}", self.loader.steps, self.world, done, state["partial"]
        ) as progress:
            self._progress = progress
            for micro_batches in self.loader.epoch(epoch, done):
                torch.manual_seed(_mix(self.config.seed, state["step"], self.world.rank))
                self.schedule.apply(state["step"])
                losses = self.step(*micro_batches)
                progress.advance(losses)
                state["step"] += 1
                state["epoch_step"] += 1
                self.finite.note(losses["loss"], state["step"])
                if self.finite.due(state["step"]):
                    self.finite.require_loss()
                if every and state["step"] % every == 0:
                    self._save()
                if self.stop.due(state["step"]):
                    self._heed()
                    if state["epoch_step"] < self.loader.steps and self._out_of_time():
                        state["partial"], self._progress = progress.saved(), None
                        return False
        figures = self._averaged(progress.mean_losses()) | {
            "users_per_second": len(self.loader.windows) / progress.seconds
        }
        figures |= managed_figures(self.parallel.module, self.world)
        if self.figures:
            self._record("train", epoch, figures)
            speed = figures["users_per_second"]
            log.info("epoch %d of %d: loss %.4f, %.1f users/s", epoch, self.config.epochs, figures["loss"], speed)
        return True

    def step(self, *micro_batches: Batch) -> dict[str, Tensor]:
        """One update by this rank's share of a step, in its micro-batches."""
        return self.make_step(micro_batches, self.state["step"])

    def _averaged(self, losses: dict[str, Tensor]) -> dict[str, float]:
        names = {
            "loss": "loss",
            "rec_L": "rec_nll",
            "align_L": "align_nll",
            "entropy_L": "align_entropy",
            "dense": "dense_nll",
            "gradient_norm": "gradient_norm",
        }
        figures: dict[str, float] = {}
        for key, value in losses.items():
            mean = (self.world.sum(value) / self.world.size).tolist()
            if isinstance(mean, list):
                figures |= {f"{names[key]}_l{level + 1}": figure for level, figure in enumerate(mean)}
                figures[names[key]] = sum(mean)
            else:
                figures[names[key]] = mean
        return figures

    def _validate(self, epoch: int) -> dict[str, float]:
        self.finite.require_weights(self.parallel.module, self.state["step"])
        with self.parallel.weights(averaged=True):
            self.evaluator.fit()
            self.state["ranking"] = self.evaluator.weights()
            metrics = self.evaluator.evaluate("valid", self.inputs.recipe.evaluate.validation_beam)
        if self.figures:
            self._record("valid", epoch, metrics)
            log.info("epoch %d: validation %s", epoch, {k: round(v, 4) for k, v in metrics.items()})
        return metrics

    def _record(self, split: str, epoch: int, figures: dict[str, float]) -> None:
        """Write a line of figures."""
        assert self.figures is not None
        try:
            self.figures.write(split, self.state["step"], epoch, figures)
        except PlaceError:
            self.checkpoints.wait()  # a save may have met the same before
            raise
        if self.on_figures is not None:
            self.on_figures(split, epoch, figures)
        if self.tracking is not None:
            self.tracking.log(split, self.state["step"], figures)

    def _keep(self, metrics: dict[str, float], epoch: int) -> None:
        """Save the model, as the best one too if it is."""
        self.state["stale"] += 1
        best = metrics[SELECT_BY] > self.state["best"]
        if best:
            self.state |= {"best": metrics[SELECT_BY], "best_epoch": epoch, "stale": 0}
        self._save(best=best)

    def _save(self, *, best: bool = False, wait: bool = False) -> None:
        """Save all as of this step.

        Raises:
            TrainingError: a weight is not finite; nothing is saved.
        """
        self.finite.require_weights(self.parallel.module, self.state["step"])
        if self._progress:
            self.state["partial"] = self._progress.saved()
        self._mark_time()
        self._saved_step = self.state["step"]
        self.checkpoints.save(self.state, self.config.keep_checkpoints, best=best, wait=wait)

    def _heed(self) -> None:
        """Save and stop if any rank was told to, or stop if a save has failed; every rank is between the same steps, or
        batches of an evaluation."""
        told = self.stop.agreed()
        if self.stop.any_rank(self.checkpoints.failed):
            self.checkpoints.wait()
        if told is None:
            return
        if self._saved_step != self.state["step"]:
            self._save(wait=True)
        self.checkpoints.wait()
        line = f"{told.name}: stopped, saved after step {self.state['step']}; the same command goes on from there"
        raise Stopped(line if self.world.is_main else "", EXIT_CODES[told])

    def _mark_time(self) -> None:
        if self.figures:
            self.state["seconds"] = self.figures.seconds

    def _finished(self) -> bool:
        stopped_early = self.state["stale"] >= self.config.patience
        if stopped_early and self.world.is_main:
            log.info("no better validation %s in %d validations: stopping", SELECT_BY, self.config.patience)
        timed_out = self.state["best"] >= 0 and self._out_of_time()  # before this start
        return stopped_early or timed_out or self.state["epoch"] >= self.config.epochs

    def _out_of_time(self) -> bool:
        """Whether the main rank's clock has run out, as agreed by all ranks."""
        limit = self.config.max_minutes
        if limit is None:
            return False
        return self.stop.any_rank(self.figures is not None and self.figures.seconds > 60 * limit)


def _mix(*parts: int) -> int:
    """A seed that differs wherever any of the parts does."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
