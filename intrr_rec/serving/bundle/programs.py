"""Backbone and RAN as programs of torch.export: what runs them needs none of the model's code.

`programs/backbone.pt2`, `programs/ran_begin.pt2`, `programs/ran_step_1.pt2` … of a bundle; the number of blocks, users and prefixes
is free, the window is not. A .pt2 file is a zip of a graph in JSON and raw weights. torch would unpickle whatever a file calls a
pickle, and evaluate any text it calls a size, so a file that holds such things is refused before torch sees it.

Shape suffixes: C blocks, N slots of a block, T = C·N, S slots asked for, B users, R prefixes, D width, F hidden width, K codes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export, load, save

from intrr_rec.data.loading.batch import Layout
from intrr_rec.errors import ArtefactError
from intrr_rec.models.backbones.backbone import Backbone
from intrr_rec.models.ran_decoder import RanSteps

FOLDER = "programs"
BACKBONE, BEGIN, STEP = "backbone.pt2", "ran_begin.pt2", "ran_step_{}.pt2"
MOST = 2**20
_DATA = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+|(weights|constants)/model_\w+_config\.json)")
_SIZE = re.compile(
    r"(Symbol\('[su]\d+'|(positive|integer|nonnegative|nonzero)=(True|False)|(Integer|Add|Mul|Pow|Max|Min|FloorDiv|Mod)\(|[-\d(), ])*"
)


class _Blocks(nn.Module):
    """The backbone over blocks: `[C, N, D]`, slots, owners and, where it reads them, times → states `[S, D]`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x_CND: Tensor, at_S: Tensor, *layout: Tensor) -> Tensor:
        return self.backbone(x_CND.flatten(0, 1), Layout(*layout), at_S)


class _Begin(nn.Module):
    def __init__(self, steps: RanSteps) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x_BD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.steps.begin(x_BD)


class _Step(nn.Module):
    def __init__(self, steps: RanSteps, level: int) -> None:
        super().__init__()
        self.steps, self.level = steps, level

    def forward(self, signal_RF: Tensor, chosen_Rl: Tensor) -> Tensor:
        return self.steps.step(self.level, signal_RF, chosen_Rl.unbind(-1))


@torch.no_grad()
def write_programs(folder: Path, backbone: Backbone, steps: RanSteps, window: int, *, reads_times: bool) -> None:
    """Write all programs of a model in evaluation mode, on the CPU."""
    folder.mkdir()
    blocks, users, prefixes = (Dim(name, min=1, max=MOST) for name in ("blocks", "users", "prefixes"))
    width = steps.signal.in_features
    owner_CN = torch.arange(3)[:, None].expand(-1, window).contiguous()
    layout = (owner_CN, owner_CN.clone(), owner_CN.clone()) if reads_times else (owner_CN,)
    inputs = (torch.zeros(3, window, width), torch.arange(5), *layout)
    _save(folder / BACKBONE, _Blocks(backbone), inputs, ({0: blocks}, {0: users}, ({0: blocks},) * len(layout)))
    _save(folder / BEGIN, _Begin(steps), (torch.zeros(3, width),), ({0: users},))
    for level in range(1, steps.levels):
        inputs = (torch.zeros(3, steps.hidden), torch.zeros(3, level, dtype=torch.int64))
        _save(folder / STEP.format(level), _Step(steps, level), inputs, ({0: prefixes}, {0: prefixes}))


class ExportedBackbone:
    """Runs the program; takes the place of a backbone.

    Args:
        folder: of the programs.

    Raises:
        ArtefactError: missing, or holds what has no place in a program.
    """

    def __init__(self, folder: Path) -> None:
        self._program = _load(folder / BACKBONE)

    def __call__(self, x_TD: Tensor, layout: Layout, at_S: Tensor) -> Tensor:
        """Tokens `[T, D]` → states of these slots, `[S, D]`."""
        each = (layout.owner_CN, layout.event_time_CN, layout.request_time_CN)
        x_CND = x_TD.view(*layout.owner_CN.shape, -1)
        return self._program(x_CND, at_S, *(part for part in each if part is not None))


class ExportedSteps:
    """Runs the programs; takes the place of `RanSteps`.

    Args:
        folder: of the programs.
        codes_per_level: K_l of each of the L levels.

    Raises:
        ArtefactError: as `ExportedBackbone`.
    """

    def __init__(self, folder: Path, codes_per_level: Sequence[int]) -> None:
        self.levels = len(codes_per_level)
        self._codes_per_level = codes_per_level
        self._begin = _load(folder / BEGIN)
        self._steps = [_load(folder / STEP.format(level)) for level in range(1, self.levels)]

    def begin(self, x_BD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `RanSteps.begin`."""
        return self._begin(x_BD)

    def step(self, level: int, signal_RF: Tensor, chosen: Sequence[Tensor]) -> Tensor:
        """As `RanSteps.step`."""
        if not len(signal_RF):  # programs are made for one prefix at least
            return signal_RF.new_empty(0, self._codes_per_level[level])
        return self._steps[level - 1](signal_RF, torch.stack(list(chosen), dim=-1))


def _save(path: Path, module: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[Any, ...]) -> None:
    program = export(module.eval(), inputs, dynamic_shapes=shapes)
    program.example_inputs = None  # they would be saved as a pickle
    save(program, path)
    require_plain(path)


def _load(path: Path) -> Callable[..., Any]:
    require_plain(path)
    program: ExportedProgram = load(path)
    return program.module()


def require_plain(path: Path) -> None:
    """Refuse a .pt2 file that is more than a graph in JSON and raw tensors.

    Raises:
        ArtefactError: it cannot be read, or holds a pickle, a library, or a size that is no arithmetic.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if name == "data/sample_inputs/model.pt" and not entry.file_size:
                    continue
                is_graph = name == "models/model.json"
                if name.startswith(("data/", "models/")) and not (is_graph or _DATA.fullmatch(name)):
                    raise ArtefactError(
                        f"{path}: holds {name}, which has no place in a program; export the bundle again"
                    )
                if name.endswith(".json"):
                    _require_plain_json(path, json.loads(archive.read(entry)))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); export the bundle again with --programs") from None


def _require_plain_json(path: Path, tree: Any) -> None:
    for key, value in _entries(tree):
        if key == "use_pickle" and value is not False:
            raise ArtefactError(f"{path}: holds a pickle; export the bundle again")
        if key == "expr_str" and not _SIZE.fullmatch(str(value)):
            raise ArtefactError(f"{path}: holds the size {value!r}, which is no arithmetic; export the bundle again")


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)
