"""What is asked of a kind of model.

Shape suffixes: B scored slots, W places, I items.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from intrr_rec.config import load_recipe
from intrr_rec.decoding.decode import decode
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.zch import item_keys
from intrr_rec.models.registry import make_model
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.testing.checks import CODES, ITEMS, WINDOW, Check, make_batch, require, require_same


def check_model(name: str) -> Iterator[tuple[str, Check]]:
    """Checks of a registered kind of model, each with what it says."""
    recipe = load_recipe(None, [f"model.kind={name}", f"model.window={WINDOW}", "evaluate.beam=6"])
    config = recipe.model

    def made() -> tuple[Recommender, Tensor]:
        torch.manual_seed(0)
        codes_IL = torch.cartesian_prod(*(torch.arange(k) for k in CODES))[torch.randperm(60)[:ITEMS]]
        return make_model(config, codes_IL, CODES, None, torch.device("cpu"), item_keys(range(ITEMS))), codes_IL

    def learns() -> None:
        model, _ = made()
        model.train()
        loss = model(make_batch(recipe))["loss"]
        require(loss.shape == () and bool(loss.isfinite()), "the loss is no finite number")
        loss.backward()
        require(any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()), "nothing gets a gradient")

    def repeats() -> None:
        losses = []
        for _ in range(2):
            model, _ = made()
            losses.append(model.eval()(make_batch(recipe))["loss"].detach())
        require_same(losses[0], losses[1], "the same seed gives another loss")

    @torch.no_grad()
    def ranks() -> None:
        model, codes_IL = made()
        model.eval()
        catalogue_ID = None if model.token_width is None else model.represent(torch.arange(ITEMS), None)
        batch = make_batch(recipe, training=False)
        items_BW, scores_BW = decode(model, batch, catalogue_ID, PrefixTrie.build(codes_IL, CODES), recipe.evaluate)
        require(items_BW.shape == scores_BW.shape == (len(batch.target_S), 6), "not [B, W] items and scores")
        require(bool((items_BW >= -1).all()) and bool((items_BW < ITEMS).all()), "an item is outside the catalogue")
        require(bool((scores_BW[:, :-1] >= scores_BW[:, 1:]).all()), "the best item does not come first")
        for items in items_BW.tolist():
            found = [item for item in items if item >= 0]
            require(len(found) == len(set(found)), "an item is recommended twice")

    if config.kind_settings.learns:
        yield "a batch gives a finite loss, and the loss a gradient", learns
        yield "the same seed gives the same loss", repeats
    yield "it ranks the catalogue: distinct items, the best first", ranks
