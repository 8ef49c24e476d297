"""What the checks of several kinds of component share.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, I items, L levels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intrr_rec.config import Recipe, Section, component, load_recipe, save_recipe
from intrr_rec.config.components import Group
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.errors import UserError
from intrr_rec.models.registry import model_class

Check = Callable[[], None]
OWNER_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, -1, -1], [3, 3, 3, 3, 3, 3, 3, 3]])
WINDOW = OWNER_CN.shape[1]
CODES, ITEMS = (3, 4, 5), 20
LENGTHS = (9, 5, 7, 4, 12)  # events of each user
TEXTS = ("a red mug", "a blue mug of stoneware", "bread")


class ContractError(AssertionError):
    """What a component does not keep of its contract."""


def check_settings(group: Group, name: str) -> Iterator[tuple[str, Check]]:
    """What is asked of the settings of any component."""
    config: type[Section] = component(group, name).Config

    def defaults() -> None:
        require(config() == config.model_validate(config().model_dump(mode="json")), "its settings change when dumped")

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
        yield "a recipe that names it survives being saved and read", lambda: require_same_recipe(f"{setting}={name}")


def require_same_recipe(word: str) -> None:
    """A recipe with this word is the same when it is saved and read again."""
    recipe = load_recipe(None, [word])
    with tempfile.TemporaryDirectory() as folder:
        save_recipe(recipe, Path(folder) / "recipe.yaml")
        require(load_recipe(Path(folder) / "recipe.yaml") == recipe, "the recipe that was read is another one")


def make_batch(recipe: Recipe, *, training: bool = True) -> Batch:
    """A batch of a few histories, as a recipe's model reads it."""
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


def require_refused(read: Callable[[Path], Any], path: Path) -> None:
    """Reading this file ends in one line that names the file."""
    try:
        read(path)
    except UserError as error:
        require(str(path) in str(error), f"the error does not name the file: {error}")
    else:
        raise ContractError(f"a {path.name} file is read without an error")


def require(holds: bool, words: str) -> None:
    """Fail with these words where it does not hold."""
    if not holds:
        raise ContractError(words)


def require_same(found: Tensor, expected: Tensor, words: str) -> None:
    """Two tensors are equal but for rounding."""
    require(torch.allclose(found, expected, rtol=1e-3, atol=1e-4), words)


def require_gradients(module: torch.nn.Module) -> None:
    """Every parameter has got a gradient."""
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    require(not without, f"no gradient reaches {', '.join(without)}")
