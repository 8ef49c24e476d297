"""`intrr train --init-from RUN`: a run that starts with the weights of another one, over the same catalogue or a grown one.

Items are known by the user's own id, since a dataset numbers them anew. Known items keep their rows and optimizer state. A
new item's row is derived, not drawn: it starts as the mean row of the items that share the longest prefix of its Semantic
ID, then is moved, all else fixed, until its redistribution spells its own Semantic ID (IntRR Eq. 4-6). So from the first step
on the RAN returns the item's Semantic ID rather than noise, and the item lies among its neighbours.

Shape suffixes: I items, N new items, D width, L levels, V width of content vectors, G groups.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from intrr_rec.config import Recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.checkpoint.remap_rows import UidRows, load_grown
from intrr_rec.distributed.checkpoint.storage import load_checkpoint
from intrr_rec.distributed.parallelize import Parallel
from intrr_rec.distributed.world import World
from intrr_rec.distributed.zch import managed_rows
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.stores.storage import Location
from intrr_rec.models.embeddings.features import FEATURE_TABLE
from intrr_rec.models.embeddings.tables import UID_TABLE
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.losses import sid_nll
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.runs.inputs import Inputs, space_of
from intrr_rec.runs.run_record import input_place, read_recipe, read_run_record
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.versions import extended_places

log = logging.getLogger(__name__)
CHUNK = 8_192
STEPS = 100  # at most, of moving a chunk of new rows
RATE = 0.05  # of their standard deviation a step
MARGIN = 0.1  # nats between an item's own code and the next one, at which its row is left where it is


@dataclass(frozen=True)
class Start:
    """Another run to start from.

    Attributes:
        run: its folder.
        place_I: its dense id of every item, -1 where it had none.
        feature_R: its row of every row of the table of features, -1 where it had none; None of a model that reads none.
    """

    run: Path
    place_I: Tensor
    feature_R: Tensor | None = None

    @classmethod
    def open(cls, run: Path, inputs: Inputs) -> Start:
        """Check that a run with these inputs can start from `run`.

        Raises:
            ArtefactError: not a run folder, Semantic IDs that do not go on from those of `run`, or features whose dataset is gone.
            ConfigError: another model than that of `run`.
            DataError: a feature that is declared otherwise than there.
        """
        place_I = extended_places(_open_old(run, inputs.recipe), inputs.semantic_ids)
        return cls(run, place_I, _feature_places(run, inputs) if inputs.space.rows else None)

    def load(self, inputs: Inputs, parallel: Parallel, world: World) -> dict[str, float]:
        """Load the run's newest whole checkpoint into a model that has not stepped; every rank calls this.

        Returns:
            `known` and `new` items; for IntRR also the share of new ones whose every level's likeliest code is its own, by
            their rows as `drawn`, as means of their `neighbours`, and as they start (`fitted`).

        Raises:
            ArtefactError: no usable checkpoint.
        """

        def load(path: Location) -> Location:
            places = {UID_TABLE: self.place_I}
            if managed_rows(parallel.module):  # rows are the items' own wherever these stand now
                places = {}
            if self.feature_R is not None:
                places[FEATURE_TABLE] = self.feature_R
            if places:
                load_grown(path, parallel, world, places)
            else:
                load_checkpoint(path, parallel, world, with_optimizer=True)
            return path

        if Checkpoints(self.run, parallel, world).first_whole(load) is None:
            raise ArtefactError(f"{self.run}: has no checkpoint to start from")
        new_N = torch.nonzero(self.place_I < 0).squeeze(1)
        figures = {"known": float(len(self.place_I) - len(new_N)), "new": float(len(new_N))}
        if parallel.model.uid is not None and len(new_N) and not managed_rows(parallel.module):
            figures |= _place_newcomers(new_N, inputs, parallel, world)
        if world.is_main:
            said = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
            log.info("started from %s: %s", self.run, said)
        return figures


def _place_newcomers(new_N: Tensor, inputs: Inputs, parallel: Parallel, world: World) -> dict[str, float]:
    model, codes_IL = parallel.model, inputs.semantic_ids.codes_IL
    figures = {}
    table = UidRows(parallel.module.state_dict())
    itself_I = torch.full((len(codes_IL),), -1)
    itself_I[new_N] = torch.arange(len(new_N))
    drawn_ND = table.sum_by(itself_I, len(new_N))
    start_ND = _neighbours(table, codes_IL, new_N, drawn_ND)
    if model.redistributes:
        model = cast(IntRR, model)
        figures["drawn"] = _spelled(model, inputs, world, new_N, drawn_ND, steps=0)[1]
        figures["neighbours"] = _spelled(model, inputs, world, new_N, start_ND, steps=0)[1]
        start_ND, figures["fitted"] = _spelled(model, inputs, world, new_N, start_ND, steps=STEPS)
    table.put(new_N, start_ND)
    if parallel.average:
        UidRows(parallel.average.tensors).put(new_N, start_ND)
    return figures


def _open_old(old_run: Path, recipe: Recipe) -> SemanticIds:
    """The Semantic IDs of a run whose model can be gone on with."""
    record, old = read_run_record(old_run), read_recipe(old_run).model
    for key in ("kind", "backbone"):
        if getattr(old, key) != getattr(recipe.model, key):
            raise ConfigError(f"model.{key}: {old_run} has {getattr(old, key)}; start from it with the same")
    path = Path(input_place(old_run, record, "semantic_ids") or "")
    ids = SemanticIds.open(path)
    if ids.manifest.content_hash != record.hashes.semantic_ids:
        raise ArtefactError(
            f"{path}: was rebuilt after {old_run} was trained on it, so nothing tells its items any "
            "more; put it back, and go on from it by `intrr index --extend`"
        )
    return ids


def _feature_places(old_run: Path, inputs: Inputs) -> Tensor:
    """The row that each row of the table of features had in a run: a dataset that was added to knows more values."""
    record = read_run_record(old_run)
    dataset = Dataset.open(input_place(old_run, record, "dataset") or "")
    if dataset.manifest.content_hash != record.hashes.dataset:
        raise ArtefactError(
            f"{dataset.path}: is no longer the dataset that {old_run} was trained on, so nothing tells its features' values; put "
            "that one back, or start from a later run"
        )
    return torch.from_numpy(inputs.space.places_in(space_of(dataset, read_recipe(old_run).model)))


def _neighbours(table: UidRows, codes_IL: Tensor, new_N: Tensor, drawn_ND: Tensor) -> Tensor:
    """Mean row of the known items that share each new one's longest prefix, `[N, D]`; `drawn_ND` where none shares any."""
    rows_ND = drawn_ND.clone()
    waiting_N = torch.ones(len(new_N), dtype=torch.bool)
    is_new_I = torch.zeros(len(codes_IL), dtype=torch.bool)
    is_new_I[new_N] = True
    group_LI = [torch.zeros(len(codes_IL), dtype=torch.int64)]
    for codes_I in codes_IL.T[:-1]:
        group_LI.append(torch.unique(group_LI[-1] * (int(codes_I.max()) + 1) + codes_I, return_inverse=True)[1])
    for group_I in reversed(group_LI[1:]):
        known_G = torch.bincount(group_I[~is_new_I], minlength=int(group_I.max()) + 1)
        now_N = waiting_N & (known_G[group_I[new_N]] > 0)
        if not now_N.any():
            continue
        wanted, place_N = torch.unique(group_I[new_N[now_N]], return_inverse=True)
        slot_G = torch.full((len(known_G),), -1)
        slot_G[wanted] = torch.arange(len(wanted))
        total = table.sum_by(slot_G[group_I].masked_fill(is_new_I, -1), len(wanted))
        rows_ND[now_N] = (total / known_G[wanted, None].to(total))[place_N]
        waiting_N &= ~now_N
    return rows_ND


def _spelled(
    model: IntRR, inputs: Inputs, world: World, new_N: Tensor, rows_ND: Tensor, *, steps: int
) -> tuple[Tensor, float]:
    """Rows moved for `steps` towards spelling their own Semantic IDs, and the share of them that do then; ranks divide the work."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        codebooks = [each.detach() for each in (model.item_codebooks or model.codebooks)()]
    share = -(-len(new_N) // world.size)
    mine_N = torch.arange(world.rank * share, (world.rank + 1) * share).clamp(max=len(new_N) - 1)
    rate = RATE * float(rows_ND.std().clamp(min=1e-6)) * rows_ND.shape[1] ** 0.5
    moved = [
        _move(model, inputs, world, codebooks, new_N[part_N], rows_ND[part_N], rate, steps)
        for part_N in mine_N.split(CHUNK)
    ]
    model.train(was_training)
    rows, right = zip(*moved, strict=True)
    right_N = world.gather_rows(torch.cat(right).float())[: len(new_N)]
    return world.gather_rows(torch.cat(rows))[: len(new_N)], float(right_N.mean())


def _move(
    model: IntRR,
    inputs: Inputs,
    world: World,
    codebooks: Sequence[Tensor],
    items_N: Tensor,
    rows_ND: Tensor,
    rate: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Steps of length `rate` down the gradient of -log P of the own Semantic ID (Eq. 8), for the rows that do not spell it yet."""
    ran = model.item_ran or model.ran
    codes_NL = inputs.semantic_ids.codes_IL[items_N].to(world.device).long()
    content_NV = inputs.content(items_N, world.device)
    found = None if inputs.feature_reader is None else inputs.feature_reader.items(items_N.numpy())
    with torch.no_grad():
        features_ND = model.item_features(None if found is None else found.to(world.device))
    rows_ND = rows_ND.to(world.device)
    for step in range(steps + 1):
        rows_ND = rows_ND.detach().requires_grad_()
        with torch.enable_grad():
            guidance_ND = model.guide(rows_ND * rows_ND.shape[1] ** 0.5, content_NV, features_ND)
            log_p = ran.redistribute(guidance_ND, codebooks)[1]
            nll_N = sid_nll(log_p, codes_NL).sum(1)
        if step == steps:
            break
        (gradient_ND,) = torch.autograd.grad(nll_N.sum(), rows_ND)
        length_N1 = gradient_ND.norm(dim=1, keepdim=True).clamp(min=1e-12)
        rows_ND = rows_ND - rate * gradient_ND / length_N1 * ~_lead(log_p, codes_NL, MARGIN)[:, None]
    return rows_ND.detach(), _lead(log_p, codes_NL, 0.0)


def _lead(log_p: Sequence[Tensor], codes_NL: Tensor, margin: float) -> Tensor:
    """Whether every level's own code is ahead of all others by more than `margin` nats, `[N]`."""
    ahead = []
    for level, log_p_NK in enumerate(log_p):
        own_N1 = codes_NL[:, level : level + 1]
        rivals_NK = log_p_NK.scatter(1, own_N1, -torch.inf)
        ahead.append(log_p_NK.gather(1, own_N1).squeeze(1) - rivals_NK.amax(1) > margin)
    return torch.stack(ahead).all(0)
