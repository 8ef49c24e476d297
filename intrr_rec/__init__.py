"""IntRR in PyTorch and TorchRec: raw logs → Semantic IDs → sharded training → trie-constrained decoding.

The names below are the library (docs/api.md). Each is imported when it is first used, so `import intrr_rec` loads no torch.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = (
    False  # as in typing, whose import takes milliseconds in which the command does not look after Ctrl-C yet
)
if TYPE_CHECKING:
    from typing import Any

    from intrr_rec.api import build_semantic_ids, embed, evaluate, export, prepare, train
    from intrr_rec.config import Recipe, load_recipe
    from intrr_rec.errors import ArtefactError, ConfigError, DataError, Stopped, UserError
    from intrr_rec.serving.recommender import Recommender
    from intrr_rec.serving.words import Features

__version__ = "0.1.0"

_HOMES = {
    "intrr_rec.api": ("build_semantic_ids", "embed", "evaluate", "export", "prepare", "train"),
    "intrr_rec.config": ("Recipe", "load_recipe"),
    "intrr_rec.errors": ("ArtefactError", "ConfigError", "DataError", "Stopped", "UserError"),
    "intrr_rec.serving.recommender": ("Recommender",),
    "intrr_rec.serving.words": ("Features",),
}
_HOME_OF = {name: module for module, exported in _HOMES.items() for name in exported}

__all__ = [
    "ArtefactError",
    "ConfigError",
    "DataError",
    "Features",
    "Recipe",
    "Recommender",
    "Stopped",
    "UserError",
    "__version__",
    "build_semantic_ids",
    "embed",
    "evaluate",
    "export",
    "load_recipe",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'intrr_rec' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
