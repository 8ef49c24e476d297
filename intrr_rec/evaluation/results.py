"""What a finished run leaves for people and programs: results.json, ranks/, recommendations/, inspection.json.

Shape suffixes: W places, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from rich.table import Table

from intrr_rec.data.popularity import falling_order
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.evaluation.beyond_accuracy import CUTOFF, beyond_accuracy, exposure
from intrr_rec.evaluation.evaluator import Evaluator, Ranked, TargetRanks, most_popular
from intrr_rec.evaluation.slices import HISTORY_FROM, POPULARITY_FROM, SLICED_BY, as_slices, band_name, slice_sums
from intrr_rec.evaluation.target_ranks import write_ranks
from intrr_rec.io.console import console
from intrr_rec.io.disk.places import writing_to
from intrr_rec.models.intrr import IntRR
from intrr_rec.runs.folder import claimed
from intrr_rec.runs.inputs import Inputs
from intrr_rec.runs.open_run import open_run
from intrr_rec.runs.parts import publish, write_part
from intrr_rec.runs.run_files import INSPECTION, RECOMMENDATIONS, RESULTS
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.semantic_ids.collisions import code_groups

FIX = "make room or get the right to write there, then give the same command again"
TOP = 20
EXAMPLES = 8
OFTEN_SEEN = 1 << 17  # items among which two that share codes are looked for
FITTED_FOR = ("rank_by", "pool", "exclude_seen")  # with another of them the ranking's weights are fitted anew
SHOWN = ("recall@10", "ndcg@10")


def evaluate_run(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate a run's best checkpoint again; `overrides` may change the `evaluate` section only.

    Raises:
        ArtefactError: not a run folder, changed inputs, no checkpoint, or another job is at work in it.
        PlaceError: the folder cannot be written; the results before are still there.
        ConfigError: an override outside `evaluate`.
    """
    if foreign := [word for word in overrides if not word.startswith("evaluate.")]:
        raise ConfigError(
            f"command line: '{foreign[0]}' would change the trained model; only evaluate.* may differ here"
        )
    read_run_record(run)  # not a run folder: known before it is locked
    with writing_to(run, FIX), join_world() as world, claimed(run, world):
        opened = open_run(run, world, overrides)
        evaluator = Evaluator(opened.model, opened.inputs, world)
        fitted = read_recipe(run).evaluate
        if all(getattr(fitted, name) == getattr(opened.inputs.recipe.evaluate, name) for name in FITTED_FOR):
            evaluator.use(opened.state.get("ranking"))
        else:
            evaluator.fit()
        state = opened.state
        if opened.checkpoints is not None:
            # The best was saved in the midst of the run: how long the run lasted, the newest knows.
            newest = opened.checkpoints.newest_state()
            state = state | {key: newest[key] for key in ("epoch", "seconds")}
        return write_results(run, evaluator, state, opened.checkpoint)


def write_results(run: Path, evaluator: Evaluator, state: dict[str, Any], loaded: str) -> dict[str, Any]:
    """Rank both held-out events with the evaluator's model and write all results; every rank calls this.

    Args:
        run: the run folder.
        evaluator: holds the model that is evaluated.
        state: of the training loop: epochs, best epoch, seconds.
        loaded: the checkpoint that the model is of.
    """
    inputs, world = evaluator.inputs, evaluator.world
    inputs.dataset.share_popularity(world.sum, world.rank, world.size)
    valid = TargetRanks.of(evaluator.rank_users("valid"))
    ranked = list(evaluator.rank_users("test"))
    test = TargetRanks.of(ranked)
    results = {
        "name": run.name,
        "seed": inputs.recipe.train.seed,
        "wall_seconds": state["seconds"],
        "epochs": state["epoch"],
        "best_epoch": state["best_epoch"],
        "checkpoint": loaded,
        "world_size": world.size,
        "device": str(world.device),
        "command": read_run_record(run).command,
        "dataset": inputs.dataset.manifest.counts,
        "baseline": {"name": "most popular", "metrics": evaluator.means(most_popular(inputs, test))},
        "evaluate": inputs.recipe.evaluate.model_dump(mode="json"),
        "valid": evaluator.means(valid),
        "test": evaluator.means(test),
        "intervals": {"valid": evaluator.intervals(valid), "test": evaluator.intervals(test)},
        "slices": _slices(inputs, test, world),
        "beyond_accuracy": _beyond_accuracy(inputs, ranked, world),
        "semantic_ids": inputs.semantic_ids.quality,
    }
    inspection = {"redistribution": _redistribution(evaluator), "examples": _examples(inputs, ranked[0])}

    def write_tables(folder: Path) -> None:
        write_ranks(folder, inputs.dataset.user_ids(), {"valid": valid, "test": test}, world)
        _write_recommendations(folder / RECOMMENDATIONS, inputs, ranked, world)

    publish(run, world, write_tables, lambda: {INSPECTION: inspection, RESULTS: results})
    if world.is_main:
        _show(results)
    world.barrier()
    return results


def _show(results: dict[str, Any]) -> None:
    """The metrics as a table: test, validation, and the most-popular baseline with how many times it is beaten."""
    baseline = results["baseline"]["metrics"]
    columns = ("metric", "test", "95 % interval", "valid", "most popular (test)", "test / popular")
    table = Table(*columns, title=results["name"])
    for name, value in results["test"].items():
        ratio = f"{value / baseline[name]:.1f}x" if baseline[name] else "-"
        bounds = results["intervals"]["test"].get(name)
        interval = f"[{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else "-"
        table.add_row(name, f"{value:.4f}", interval, f"{results['valid'][name]:.4f}", f"{baseline[name]:.4f}", ratio)
    if (asked := results["evaluate"]["users"]) is not None:
        table.caption = f"of {asked:,} users a split at most, drawn by seed {results['evaluate']['users_seed']}"
    screen = console(stderr=True, markup=False)
    screen.print(table)
    for kind, bands in results["slices"].items():
        table = Table(SLICED_BY[kind], "users", "share", *SHOWN)
        for band in filter(lambda band: band["users"], bands):
            figures = [f"{band['metrics'][name]:.4f}" for name in SHOWN]
            table.add_row(band_name(band["from"], band["to"]), f"{band['users']:,}", f"{band['share']:.1%}", *figures)
        screen.print(table)
    screen.print(", ".join(f"{name} {value:.4f}" for name, value in results["beyond_accuracy"].items()))


def _slices(inputs: Inputs, test: TargetRanks, world: World) -> dict[str, Any]:
    """Test metrics by popularity of the target in the training part, and by the number of events before the target."""
    dataset = inputs.dataset
    by = {
        "popularity": (dataset.popularity()[test.target_B.numpy()], POPULARITY_FROM),
        "history": ((np.diff(dataset.offsets) - dataset.held_out("test"))[test.users], HISTORY_FROM),
    }
    return {
        kind: as_slices(world.sum(slice_sums(value_B, test.rank_B, bands)), bands)
        for kind, (value_B, bands) in by.items()
    }


def _beyond_accuracy(inputs: Inputs, ranked: list[Ranked], world: World) -> dict[str, float]:
    shown_BW = torch.cat([part.items_BW[:, :CUTOFF] for part in ranked]).cpu()
    item_X, count_X = exposure(shown_BW, inputs.dataset.n_items, world.sum)
    return beyond_accuracy(item_X, count_X, inputs.dataset.popularity())


def _write_recommendations(target: Path, inputs: Inputs, ranked: list[Ranked], world: World) -> None:
    """Parquet, one file a rank: user_id, item_ids (best first) and scores (log-probabilities)."""
    users = np.concatenate([part.users for part in ranked])
    items = torch.cat([part.items_BW[:, :TOP] for part in ranked]).cpu()
    scores = torch.cat([part.scores_BW[:, :TOP] for part in ranked]).cpu()
    filled = torch.isfinite(scores)
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(1).numpy())]), pa.int32())
    table = pa.table(
        {
            "user_id": inputs.dataset.user_ids().take(users),
            "item_ids": pa.ListArray.from_arrays(offsets, inputs.dataset.own_ids(items[filled].numpy())),
            "scores": pa.ListArray.from_arrays(offsets, scores[filled].numpy()),
        }
    )
    write_part(target, table, world)


@torch.no_grad()
def _redistribution(evaluator: Evaluator) -> list[dict[str, Any]]:
    """Two often-seen items that share their codes up to the last level (or as far as any two agree), with p_l of each level."""
    if not evaluator.model.redistributes:
        return []
    inputs, model, device = evaluator.inputs, cast(IntRR, evaluator.model), evaluator.world.device
    pair = _siblings(inputs)
    content_UV = inputs.content(pair, device)
    model.eval()
    log_p = model.items(torch.from_numpy(pair).to(device), content_UV, model.codebooks()).log_p
    described = _described(inputs, pair.tolist())
    return [
        described[item] | {"levels": [[round(p, 5) for p in level[i].exp().tolist()] for level in log_p]}
        for i, item in enumerate(pair.tolist())
    ]


def _siblings(inputs: Inputs) -> np.ndarray:
    popularity = inputs.dataset.popularity()
    # Where two of the most popular items share these codes, the best pair is among them.
    often = np.array(falling_order(popularity)[:OFTEN_SEEN])
    codes_IL, popularity = inputs.semantic_ids.codes_IL[torch.from_numpy(often)], popularity[often]
    for depth in range(codes_IL.shape[1] - 1, -1, -1):
        group = code_groups(codes_IL[:, :depth])[0].numpy()
        # The pair whose less popular member is the most popular: sort by group, then by falling popularity.
        order = np.lexsort((-popularity, group))
        runner_up = np.flatnonzero(group[order][1:] == group[order][:-1]) + 1
        first_of_group = np.searchsorted(group[order], group[order][runner_up])
        runner_up = runner_up[runner_up == first_of_group + 1]
        if len(runner_up):
            best = runner_up[np.argmax(popularity[order[runner_up]])]
            return often[order[best - 1 : best + 1]]
    return np.arange(1)


def _examples(inputs: Inputs, ranked: Ranked) -> list[dict[str, Any]]:
    """A few users of the first batch: as many hits as misses where there are both, chosen by user number."""
    dataset = inputs.dataset
    hit = (ranked.items_BW[:, :10] == ranked.target_B[:, None]).any(1).cpu().numpy()
    by_user = np.argsort(ranked.users)
    chosen = np.concatenate([by_user[hit[by_user]][: EXAMPLES // 2], by_user[~hit[by_user]][: EXAMPLES // 2]])
    user_ids = dataset.user_ids()
    examples: list[tuple[Any, list[int], int, list[tuple[int, float]]]] = []
    for row in chosen:
        user = int(ranked.users[row])
        history = dataset.history(user)[: -dataset.held_out("test")[user]]
        scores = ranked.scores_BW[row, :10]
        scores = scores[torch.isfinite(scores)]  # a catalogue smaller than ten leaves places empty
        top = zip(ranked.items_BW[row, : len(scores)].tolist(), scores.tolist(), strict=True)
        examples.append((user_ids[user].as_py(), history[-10:].tolist(), int(ranked.target_B[row]), list(top)))
    described = _described(inputs, (i for _, history, target, top in examples for i in (*history, target, *dict(top))))
    return [
        {
            "user_id": user_id,
            "history": [described[item] for item in history],
            "target": described[target],
            "recommended": [described[item] | {"score": round(score, 4)} for item, score in top],
        }
        for user_id, history, target, top in examples
    ]


def _described(inputs: Inputs, items: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Items as a person knows them: own id, title, Semantic ID."""
    wanted = sorted(set(items))
    own_ids = inputs.dataset.own_ids(wanted).to_pylist()
    titles, codes_IL = inputs.dataset.titles(wanted), inputs.semantic_ids.codes_IL[wanted].tolist()
    return {
        item: {"item_id": own_id, "title": title, "sid": codes_L}
        for item, own_id, title, codes_L in zip(wanted, own_ids, titles, codes_IL, strict=True)
    }
