"""The contract of every component, built in or foreign: `python -m intrr_rec.testing my_pkg.mod:MyBackbone`.

A component that passes can be named in a recipe and does what the rest of the line counts on. Checks run on the CPU, in
seconds, on data made here. `tests/test_contract.py` runs them over every registered component.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, U users, G generated tokens, I
items, L levels, B scored slots, W places.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from intrr_rec.config import (
    IndexConfig,
    ModelConfig,
    Recipe,
    Section,
    component,
    load_recipe,
    names,
    save_recipe,
)
from intrr_rec.config.components import Group
from intrr_rec.data.loading.batch import Batch, Collator, Layout
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.raw.reader import LogReader
from intrr_rec.decoding.decode import decode
from intrr_rec.errors import ConfigError, UserError
from intrr_rec.models.backbones.backbone import Backbone, make_backbone
from intrr_rec.models.backbones.kv_cache import Prompts
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.zch import item_keys
from intrr_rec.models.registry import make_model, model_class
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer, TensorSource, relative_error
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.vectors.encoder import make_encoder

Check = Callable[[], None]
OWNER_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, -1, -1], [3, 3, 3, 3, 3, 3, 3, 3]])
WINDOW = OWNER_CN.shape[1]
CODES, ITEMS = (3, 4, 5), 20
LENGTHS = (9, 5, 7, 4, 12)  # events of each user
TEXTS = ("a red mug", "a blue mug of stoneware", "bread")


class ContractError(AssertionError):
    """What a component does not keep of its contract."""


def contract(group: Group, name: str, sample: Path | None = None) -> dict[str, Check]:
    """Every check of a component, by what it says; each raises where the component fails it.

    Args:
        group: backbones, quantizers, models, encoders or readers.
        name: registered, or `module:Class`.
        sample: a file that a reader reads.

    Raises:
        ConfigError: there is no such component.
    """
    component(group, name)
    own: dict[Group, Callable[[str], Iterator[tuple[str, Check]]]] = {
        "backbones": _backbone,
        "quantizers": _quantizer,
        "models": _model,
        "encoders": _encoder,
        "readers": lambda reader: _reader(reader, sample),
    }
    return {**dict(_settings(group, name)), **dict(own[group](name))}


def group_of(name: str) -> Group:
    """The group that a class belongs to, by what it is.

    Raises:
        ConfigError: it is no component.
    """
    groups: tuple[Group, ...] = get_args(Group)
    for group in groups:
        if ":" not in name and name in names(group):
            return group
    found = component("backbones", name)  # a dotted path is the same class in every group
    bases: dict[Group, type] = {"backbones": Backbone, "models": Recommender, "readers": LogReader}
    for group, base in bases.items():
        if issubclass(found, base):
            return group
    if hasattr(found, "assign") and hasattr(found, "fit"):
        return "quantizers"
    if hasattr(found, "encode"):
        return "encoders"
    raise ConfigError(f"'{name}' is no backbone, quantizer, model, encoder or log reader")


def _settings(group: Group, name: str) -> Iterator[tuple[str, Check]]:
    config: type[Section] = component(group, name).Config

    def defaults() -> None:
        _require(config() == config.model_validate(config().model_dump(mode="json")), "its settings change when dumped")

    def strict() -> None:
        try:
            config.model_validate({"no_such_setting": 1})
        except ValueError:
            return
        raise ContractError("an unknown setting is taken without a word")

    yield "every setting has a default, and survives being dumped and read", defaults
    yield "an unknown setting is refused", strict
    setting = {"backbones": "model.backbone", "models": "model.kind", "quantizers": "index.method"}.get(group)
    if setting is not None:
        yield "a recipe that names it survives being saved and read", lambda: _named(f"{setting}={name}")


def _named(word: str) -> None:
    recipe = load_recipe(None, [word])
    with tempfile.TemporaryDirectory() as folder:
        save_recipe(recipe, Path(folder) / "recipe.yaml")
        _require(load_recipe(Path(folder) / "recipe.yaml") == recipe, "the recipe that was read is another one")


def _backbone(name: str) -> Iterator[tuple[str, Check]]:
    config = ModelConfig(backbone=name)

    def made() -> tuple[Backbone, Layout, Tensor]:
        torch.manual_seed(0)
        backbone = make_backbone(config, WINDOW + 8).eval()
        for parameter in backbone.parameters():  # away from the initial scale, so that every term counts
            torch.nn.init.normal_(parameter, std=0.1)
        event_time_CN = torch.randint(0, 10**7, OWNER_CN.shape).cumsum(1)
        layout = Layout(OWNER_CN, event_time_CN, event_time_CN + 10)
        return backbone, layout, torch.randn(OWNER_CN.numel(), config.width)

    @torch.no_grad()
    def shape() -> None:
        backbone, layout, x_TD = made()
        state_TD = backbone(x_TD, layout)
        _require(state_TD.shape == x_TD.shape, f"states have shape {tuple(state_TD.shape)}, not {tuple(x_TD.shape)}")
        _require(bool(state_TD[OWNER_CN.flatten() >= 0].isfinite().all()), "a state is not finite")
        _same(backbone(x_TD, layout), state_TD, "two passes in evaluation mode differ")

    @torch.no_grad()
    def causal() -> None:
        backbone, layout, x_TD = made()
        changed_TD = x_TD.clone()
        changed_TD[8 + 3] += 1  # of user 2, at its fourth slot
        before, after = backbone(x_TD, layout), backbone(changed_TD, layout)
        _same(after[8 : 8 + 3], before[8 : 8 + 3], "an earlier state sees a later item")
        _require(
            not torch.allclose(after[8 + 3 : 8 + 6], before[8 + 3 : 8 + 6]), "an item leaves no trace in later states"
        )

    @torch.no_grad()
    def packed() -> None:
        backbone, layout, x_TD = made()
        assert layout.event_time_CN is not None and layout.request_time_CN is not None
        alone = Layout(*(each[:1, 3:7] for each in (layout.owner_CN, layout.event_time_CN, layout.request_time_CN)))
        _same(
            backbone(x_TD[3:7], alone),
            backbone(x_TD, layout)[3:7],
            "a history's neighbours in its block change its states",
        )

    @torch.no_grad()
    def some() -> None:
        backbone, layout, x_TD = made()
        at_S = torch.tensor([6, 2, 13, 23])
        _same(backbone(x_TD, layout, at_S), backbone(x_TD, layout)[at_S], "states asked for by at_S are others")

    @torch.no_grad()
    def stepped() -> None:
        backbone, layout, x_TD = made()
        plain = Layout(layout.owner_CN)
        last_U = torch.tensor([2, 6, 13])
        _, keys_values = backbone.prefill(x_TD, plain, last_U)
        cache = Prompts.up_to(last_U, plain, keys_values).cache(torch.arange(3))
        own_UGD = torch.randn(3, 2, config.width)
        stepped_UGD = torch.stack([backbone.step(own_UGD[:, None, g], cache)[:, 0] for g in range(2)], dim=1)
        for user, history_TD in enumerate((x_TD[0:3], x_TD[3:7], x_TD[8:14])):
            whole_TD = torch.cat([history_TD, own_UGD[user]])
            whole = backbone(whole_TD, Layout(torch.zeros(1, len(whole_TD), dtype=torch.int64)))
            _same(stepped_UGD[user], whole[-2:], "reading on from the cache gives other states than one pass")

    def learns() -> None:
        backbone, layout, x_TD = made()
        backbone(x_TD, layout)[OWNER_CN.flatten() >= 0].square().sum().backward()
        _gradients(backbone)

    yield "tokens [T, D] → finite states [T, D], the same every time", shape
    yield "no state sees a later item", causal
    yield "what shares a block changes nothing", packed
    yield "states asked for by at_S are those of the whole pass", some
    if not config.backbone_settings.reads_times:
        yield "reading on token by token gives the states of one pass", stepped
    yield "every parameter gets a gradient", learns


def _quantizer(name: str) -> Iterator[tuple[str, Check]]:
    small = {
        "training": {"epochs": 2, "batch_items": 64},
        "autoencoder": {"latent": 4, "hidden": [8], "warmup_epochs": 1},
    }
    config = IndexConfig.model_validate({"method": name, "levels": 2, "codes": [4, 5], "iterations": 5} | small)
    x_ID = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))

    def fitted() -> Quantizer:
        quantizer = make_quantizer(config, x_ID.shape[1])
        quantizer.fit(TensorSource(x_ID))
        return quantizer

    def codes() -> None:
        quantizer = fitted()
        codes_IL, distance_I = quantizer.assign(x_ID)
        _require(codes_IL.shape == (300, 2) and codes_IL.dtype == torch.int64, "codes are not int64 [I, L]")
        _require(distance_I.shape == (300,) and bool((distance_I >= 0).all()), "distances are not [I], from 0")
        _require(
            bool((codes_IL >= 0).all()) and bool((codes_IL < torch.tensor([4, 5])).all()), "a code is out of range"
        )
        _require([len(book) for book in quantizer.codebooks] == [4, 5], "codebooks have other sizes than index.codes")

    def repeats() -> None:
        first, again = fitted(), fitted()
        for one, other in zip(first.codebooks, again.codebooks, strict=True):
            _require(torch.equal(one, other), "the same vectors, settings and seed give other codebooks")

    def by_item() -> None:
        quantizer = fitted()
        _require(
            torch.equal(quantizer.assign(x_ID)[0][37:41], quantizer.assign(x_ID[37:41])[0]),
            "an item's codes depend on the items it is assigned with",
        )

    def kept() -> None:
        first, second = fitted(), make_quantizer(config, x_ID.shape[1])
        second.load_state({key: value.clone() for key, value in first.state().items()})
        _require(torch.equal(first.assign(x_ID)[0], second.assign(x_ID)[0]), "other codes after load_state(state())")

    def errors() -> None:
        quantizer = fitted()
        codes_IL, _ = quantizer.assign(x_ID)
        distances = quantizer.distances(x_ID, codes_IL)
        _require(distances.shape == (300, 3), f"distances have shape {tuple(distances.shape)}, not (I, 1 + L)")
        _same(
            torch.tensor(relative_error(quantizer, TensorSource(x_ID))),
            torch.tensor(quantizer.relative_error),
            "relative_error is not that of its own distances",
        )
        for level in range(2):
            input_ID = quantizer.level_input(x_ID, codes_IL[:, :level])
            _require(
                input_ID.shape == (300, quantizer.codebooks[level].shape[1]),
                f"the input of level {level + 1} is not as wide as its codebook",
            )

    yield "vectors [I, D] → codes [I, L], each in the range of its level", codes
    yield "the same seed gives the same codebooks", repeats
    yield "an item's codes depend on its vector alone", by_item
    yield "load_state(state()) gives the same codes", kept
    yield "distances and relative_error agree, level by level", errors


def _model(name: str) -> Iterator[tuple[str, Check]]:
    recipe = load_recipe(None, [f"model.kind={name}", f"model.window={WINDOW}", "evaluate.beam=6"])
    config = recipe.model

    def made() -> tuple[Recommender, Tensor]:
        torch.manual_seed(0)
        codes_IL = torch.cartesian_prod(*(torch.arange(k) for k in CODES))[torch.randperm(60)[:ITEMS]]
        return make_model(config, codes_IL, CODES, None, torch.device("cpu"), item_keys(range(ITEMS))), codes_IL

    def learns() -> None:
        model, _ = made()
        model.train()
        loss = model(_batch(recipe))["loss"]
        _require(loss.shape == () and bool(loss.isfinite()), "the loss is no finite number")
        loss.backward()
        _require(any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()), "nothing gets a gradient")

    def repeats() -> None:
        losses = []
        for _ in range(2):
            model, _ = made()
            losses.append(model.eval()(_batch(recipe))["loss"].detach())
        _same(losses[0], losses[1], "the same seed gives another loss")

    @torch.no_grad()
    def ranks() -> None:
        model, codes_IL = made()
        model.eval()
        catalogue_ID = None if model.token_width is None else model.represent(torch.arange(ITEMS), None)
        batch = _batch(recipe, training=False)
        items_BW, scores_BW = decode(model, batch, catalogue_ID, PrefixTrie.build(codes_IL, CODES), recipe.evaluate)
        _require(items_BW.shape == scores_BW.shape == (len(batch.target_S), 6), "not [B, W] items and scores")
        _require(bool((items_BW >= -1).all()) and bool((items_BW < ITEMS).all()), "an item is outside the catalogue")
        _require(bool((scores_BW[:, :-1] >= scores_BW[:, 1:]).all()), "the best item does not come first")
        for items in items_BW.tolist():
            found = [item for item in items if item >= 0]
            _require(len(found) == len(set(found)), "an item is recommended twice")

    if config.kind_settings.learns:
        yield "a batch gives a finite loss, and the loss a gradient", learns
        yield "the same seed gives the same loss", repeats
    yield "it ranks the catalogue: distinct items, the best first", ranks


def _batch(recipe: Recipe, *, training: bool = True) -> Batch:
    config = recipe.model
    kind = model_class(config)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    items_E = np.random.default_rng(0).integers(0, ITEMS, sum(LENGTHS))
    times_E = np.arange(sum(LENGTHS)) * 100 if config.reads_times else None
    negatives = training and (config.kind_settings.draws_negatives or config.dense.weight)
    collate = Collator(
        items_E,
        config.window,
        None,
        config.align_average,
        times_E,
        CandidateSampler(ITEMS, 8, 0) if negatives else None,
        with_targets=training and kind.with_targets,
    )
    return collate(kind.windows(offsets, window=config.window, held_out=2))


def _encoder(name: str) -> Iterator[tuple[str, Check]]:
    def encodes() -> None:
        encoder = make_encoder(name, {})
        x_BD = encoder.encode(TEXTS)
        _require(x_BD.shape == (len(TEXTS), encoder.width) and x_BD.dtype == np.float32, "not float32 [B, width]")
        _require(bool(np.isfinite(x_BD).all()), "a vector is not finite")
        _require(np.array_equal(x_BD, encoder.encode(TEXTS)), "the same batch gives other vectors")
        _require(len(encoder.lengths(TEXTS)) == len(TEXTS), "not a length per text")
        _require(
            bool(encoder.name) and all(isinstance(value, str) for value in encoder.identity.values()), "no identity"
        )

    yield "texts → float32 vectors [B, width], the same every time", encodes


def _reader(name: str, sample: Path | None) -> Iterator[tuple[str, Check]]:
    reader_class = component("readers", name)

    def read(path: Path) -> list[Any]:
        return list(reader_class(reader_class.Config()).batches(path))

    def schema() -> None:
        _require("item_id" in reader_class.schema.names, "its schema has no item_id")

    def broken() -> None:
        with tempfile.TemporaryDirectory() as folder:
            noise = Path(folder) / "noise"
            noise.write_bytes(bytes(range(256)) * 4)
            _refused(read, noise)
            _refused(read, Path(folder) / "missing")

    def sampled() -> None:
        assert sample is not None
        batches = read(sample)
        _require(sum(batch.num_rows for batch in batches) > 0, "no rows")
        _require(all(batch.schema == reader_class.schema for batch in batches), "a block has another schema")
        _require(batches == read(sample), "the same file gives other rows")

    yield "its table has an item_id", schema
    yield "a file that is missing, or of another format, is an error of one line that names it", broken
    if sample is not None:
        yield "the sample file gives rows of its schema, the same every time", sampled


def _refused(read: Callable[[Path], Any], path: Path) -> None:
    try:
        read(path)
    except UserError as error:
        _require(str(path) in str(error), f"the error does not name the file: {error}")
    else:
        raise ContractError(f"a {path.name} file is read without an error")


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise ContractError(words)


def _same(found: Tensor, expected: Tensor, words: str) -> None:
    _require(torch.allclose(found, expected, rtol=1e-3, atol=1e-4), words)


def _gradients(module: torch.nn.Module) -> None:
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    _require(not without, f"no gradient reaches {', '.join(without)}")


def main() -> int:
    """Run the contract of the components named on the command line; returns 1 where one fails, 2 where there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m intrr_rec.testing", description="Check components against their contract."
    )
    parser.add_argument("components", nargs="+", metavar="NAME", help="registered name, or module:Class")
    parser.add_argument("--sample", type=Path, help="a file that a log reader reads")
    asked = parser.parse_args()
    failed = 0
    for name in asked.components:
        try:
            checks = contract(group_of(name), name, asked.sample)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        for words, check in checks.items():
            fault = fault_of(check)
            failed += fault is not None
            print(f"ok    {name}: {words}" if fault is None else f"FAIL  {name}: {words}: {fault}")
    return int(failed > 0)


def fault_of(check: Check) -> str | None:
    """What a check finds wrong, in one line; None where it passes."""
    try:
        check()
    except Exception as error:  # whatever a foreign component raises is its failure
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
