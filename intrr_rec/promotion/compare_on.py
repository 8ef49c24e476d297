"""`intrr compare --on DATASET`: several runs or bundles rank the same test users of one dataset, the newest version as a rule.

Each knows the catalogue of its own day. Items are known by the user's own ids: an event of an item that a model does not know is
left out of the history it reads, and a target that it does not know is missed, as it would be when serving.

Shape suffixes: I items, T test users, M metrics, W places, O items of a contender, X items that are recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.evaluation.beyond_accuracy import CUTOFF, exposure
from intrr_rec.evaluation.bootstrap import RESAMPLES, Interval, paired_bootstrap
from intrr_rec.evaluation.metrics import NAMES, metrics_by_user, target_rank
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.stores.mirror import origin
from intrr_rec.io.stores.storage import Location
from intrr_rec.io.versions import version_of
from intrr_rec.promotion.contenders import Contender, open_contender, ranked_chunks

COLD_EVENTS = 5  # training events of a target below which it counts as cold
COMPARED = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_COLUMNS = [NAMES.index(name) for name in COMPARED]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """How one model does.

    Attributes:
        place, kind: as in `Contender`.
        items: of its catalogue.
        metric_TM: of each test user, in the order of `COMPARED`.
        known_items: of the dataset.
        unknown_targets: share of users whose target it cannot recommend.
        coverage: share of the dataset's catalogue among the ten best of anyone.
    """

    place: Location
    kind: str
    items: int
    metric_TM: Floats
    known_items: int
    unknown_targets: float
    coverage: float

    @property
    def name(self) -> str:
        """The place as a person named it."""
        return str(origin(self.place) if isinstance(self.place, Path) else self.place)

    def means(self, chosen_T: NDArray[np.bool_] | None = None) -> dict[str, float] | None:
        """Metrics over the users, or over some; None where those are none."""
        chosen_TM = self.metric_TM if chosen_T is None else self.metric_TM[chosen_T]
        return dict(zip(COMPARED, chosen_TM.mean(0).tolist(), strict=True)) if len(chosen_TM) else None


@dataclass(frozen=True)
class Comparison:
    """Models side by side.

    Attributes:
        cold_T: users whose target had fewer than `COLD_EVENTS` training events.
    """

    dataset: Dataset
    standings: list[Standing]
    cold_T: NDArray[np.bool_]
    seed: int

    def difference(self, a: int, b: int, *, cold: bool = False) -> dict[str, Interval]:
        """Metrics of model `a` less those of `b`, with their intervals, over all users or those of cold targets."""
        of_TM = self.standings[a].metric_TM - self.standings[b].metric_TM
        found = paired_bootstrap(of_TM[self.cold_T] if cold else of_TM, seed=self.seed)
        return dict(zip(COMPARED, found, strict=True))

    def record(self) -> dict[str, Any]:
        """The comparison as JSON: models in the order they were given, each after the first less than it."""
        others = range(1, len(self.standings))
        has_cold = bool(self.cold_T.any())
        return {
            "dataset": self.dataset.manifest.content_hash,
            "version": _version(self.dataset),
            "users": len(self.cold_T),
            "items": self.dataset.n_items,
            "cold_users": int(self.cold_T.sum()),
            "resamples": RESAMPLES,
            "bootstrap_seed": self.seed,
            "models": [
                {
                    "place": each.name,
                    "kind": each.kind,
                    "metrics": each.means(),
                    "cold": each.means(self.cold_T),
                    f"coverage@{CUTOFF}": each.coverage,
                    "items": each.items,
                    "known_items": each.known_items,
                    "unknown_targets": each.unknown_targets,
                }
                for each in self.standings
            ],
            "first_less_than": [
                {
                    "model": place,
                    "metrics": {name: vars(found) for name, found in self.difference(0, place).items()},
                    "cold": {name: vars(found) for name, found in self.difference(0, place, cold=True).items()}
                    if has_cold
                    else None,
                }
                for place in others
            ],
        }


def compare_on(dataset: Location, models: Sequence[Path], seed: int, out: Path | None) -> dict[str, Any]:
    """Print and return the comparison of the first model with each of the others, and write it to `out` (JSON).

    Args:
        dataset: whose test users are ranked.
        models: run folders or bundles.

    Raises:
        ConfigError: fewer than two models or more than there are letters, or one that reads features of events.
        ArtefactError: a model that cannot be opened, or that knows no item of the dataset.
    """
    if len(models) < 2:
        raise ConfigError("compare --on: give at least two --run, of runs or bundles")
    if len(models) > len(_LETTERS):
        raise ConfigError(
            f"compare --on: compares {len(_LETTERS)} models at most, not {len(models)}; compare them in parts"
        )
    with join_world() as world:
        comparison = compare_models(Dataset.open(dataset), models, world, seed)
    found = comparison.record()
    if out:
        write_json(out, found)
    show(comparison)
    return found


def compare_models(dataset: Dataset, models: Sequence[Location], world: World, seed: int) -> Comparison:
    """Rank the test users of a dataset with each model, one after another; only one model is open at a time.

    Raises:
        ConfigError, ArtefactError: as `compare_on`.
    """
    if world.size > 1:
        raise ConfigError("compare --on: is one process; start it without torchrun, and give bundles of large models")
    users_T, event_T = dataset.targets("test")
    targets_T = dataset.items_E[event_T]
    cold_T = dataset.popularity()[targets_T] < COLD_EVENTS
    standings = [_standing(open_contender(place, world), dataset, users_T, event_T) for place in models]
    return Comparison(dataset, standings, cold_T, seed)


def _standing(
    contender: Contender, dataset: Dataset, users_T: NDArray[np.int64], event_T: NDArray[np.int64]
) -> Standing:
    place_I = contender.places(dataset)
    is_known_I = place_I >= 0
    item_O = np.full(contender.n_items, -1, np.int64)
    item_O[place_I[is_known_I]] = np.flatnonzero(is_known_I)
    item_O = np.append(item_O, -1)  # of an empty place
    target_T = place_I[dataset.items_E[event_T]]
    metrics, shown, first = [], [], 0
    for items_UW in ranked_chunks(contender, dataset, users_T, event_T, place_I):
        target_U = torch.from_numpy(np.where(target_T < 0, -2, target_T)[first : first + len(items_UW)])
        metrics.append(metrics_by_user(target_rank(items_UW, target_U)).numpy()[:, _COLUMNS])
        shown.append(torch.from_numpy(item_O[items_UW[:, :CUTOFF].numpy()]))
        first += len(items_UW)
    item_X, _ = exposure(torch.cat(shown), dataset.n_items)
    return Standing(
        contender.place,
        contender.kind,
        contender.n_items,
        np.concatenate(metrics),
        int(is_known_I.sum()),
        float((target_T < 0).mean()),
        len(item_X) / dataset.n_items,
    )


def show(comparison: Comparison) -> None:
    """Print how each model does and how far the first is ahead of each other one."""
    screen, dataset = console(markup=False), comparison.dataset
    table = Table(
        "", "model", "recall@10", "ndcg@10", "cold recall@10", f"coverage@{CUTOFF}", "knows", "missed targets"
    )
    table.title = f"{dataset.path}, version {_version(dataset)}: {len(comparison.cold_T):,} users"
    for letter, each in zip(_LETTERS, comparison.standings, strict=False):
        means, cold = each.means() or {}, each.means(comparison.cold_T)
        figures = [f"{means[name]:.4f}" for name in ("recall@10", "ndcg@10")]
        figures += [f"{cold['recall@10']:.4f}" if cold else "–", f"{each.coverage:.1%}"]
        grown = f"{each.known_items:,} of {dataset.n_items:,} items"
        table.add_row(
            letter,
            each.name,
            *figures,
            grown,
            f"{each.unknown_targets:.1%} not in its catalogue",
        )
    table.caption = (
        f"cold: {int(comparison.cold_T.sum()):,} users whose target had fewer than {COLD_EVENTS} training events"
    )
    screen.print(table)
    for place in range(1, len(comparison.standings)):
        letter = _LETTERS[place]
        table = Table("metric", f"A - {letter}", "95 % interval", "p")
        for name, found in comparison.difference(0, place).items():
            table.add_row(
                name, f"{found.difference:+.4f}", f"[{found.low:+.4f}, {found.high:+.4f}]", f"{found.p_value:.4f}"
            )
        screen.print(table)
    screen.print(f"paired bootstrap over users, {RESAMPLES:,} resamples, seed {comparison.seed}")


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _version(dataset: Dataset) -> int | None:
    """The number of a local dataset's version."""
    return version_of(dataset.path) if isinstance(dataset.path, Path) else None
