"""Semantic IDs for people to read: whom an item shares its prefixes with, and what lies below a prefix.

Shape legend: I items, L levels, l levels of a prefix.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.markup import escape
from rich.tree import Tree
from torch import Tensor

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io.artefact import require_parent
from intrr_rec.io.console import console, plain
from intrr_rec.semantic_ids.artefact import SemanticIds

_TITLE_WIDTH = 90
_NEAREST = 5
_PIPE_WIDTH = 240  # where no terminal says how wide it is, lines are not to be cut


def print_ids(semantic_ids: Path, dataset: Path, *, item: str | None, prefix: str | None, show: int) -> None:
    """Print an item's tree or a prefix's on standard output (`intrr inspect-ids`).

    Raises:
        ConfigError: both or neither were asked for.
        DataError: an item or prefix there is not; the nearest valid ones are named.
        ArtefactError: artefacts that cannot be read or do not belong together.
    """
    if (item is None) == (prefix is None):
        raise ConfigError("inspect-ids: give either --item ID or --prefix 12,7")
    ids, data = open_pair(semantic_ids, dataset)
    if item is not None:
        tree = item_tree(ids, data, item, show)
    else:
        assert prefix is not None
        tree = prefix_tree(ids, data, parse_prefix(prefix), show)
    screen = console(highlight=False)
    if not screen.is_terminal:
        screen.width = _PIPE_WIDTH
    screen.print(tree)


def open_pair(semantic_ids: Path, dataset: Path) -> tuple[SemanticIds, Dataset]:
    """Semantic IDs and the dataset they were built for.

    Raises:
        ArtefactError: either cannot be read, or they do not belong together.
    """
    ids, data = SemanticIds.open(semantic_ids), Dataset.open(dataset)
    require_parent(semantic_ids, ids.manifest, "dataset", dataset, data.manifest)
    return ids, data


def item_tree(ids: SemanticIds, dataset: Dataset, item: str, show: int) -> Tree:
    """The item's Semantic ID, and at each level up to `show` items that share the prefix so far but not the next code.

    Args:
        item: the user's own id, as text.

    Raises:
        DataError: no such item, or a retired one.
    """
    place = _find(ids, item)
    codes = ids.codes_IL[place].tolist()
    [title] = dataset.titles([place])
    root = Tree(
        f"[bold]{_title(title)}[/]  item {_title(item)}, sid {_sid(codes)}, since version {int(ids.since_I[place])}"
    )
    inside_I = torch.ones(ids.n_items, dtype=torch.bool)
    branch = root
    for level, code in enumerate(codes[:-1], start=1):
        inside_I = inside_I & (ids.codes_IL[:, level - 1] == code)
        branch = branch.add(f"level {level}  [bold]{_sid(codes[:level])}[/]  {_items(int(inside_I.sum()))}")
        only_here_I = inside_I & (ids.codes_IL[:, level] != codes[level])
        _list(branch, dataset, only_here_I.nonzero().squeeze(1), show)
    return root


def prefix_tree(ids: SemanticIds, dataset: Dataset, prefix: Sequence[int], show: int) -> Tree:
    """The items below a prefix: how many under each next code, the most first, with up to `show` titles each.

    Raises:
        DataError: no item's Semantic ID begins so.
    """
    inside_I = _inside(ids, prefix)
    items = inside_I.nonzero().squeeze(1)
    root = Tree(f"prefix [bold]{_sid(prefix)}[/]  {_items(len(items))} of {ids.n_items:,}")
    if len(prefix) >= ids.levels - 1:
        _list(root, dataset, items, show)
        return root
    codes, counts = ids.codes_IL[items, len(prefix)].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    for code, count in zip(codes[order].tolist(), counts[order].tolist(), strict=True):
        branch = root.add(f"[bold]{_sid([*prefix, code])}[/]  {_items(count)}")
        _list(branch, dataset, items[ids.codes_IL[items, len(prefix)] == code], show)
    return root


def parse_prefix(text: str) -> list[int]:
    """`12,7` → [12, 7].

    Raises:
        DataError: anything but codes between commas.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"--prefix: '{text}' is not a prefix; write codes with commas between, such as 12,7") from None


def _find(ids: SemanticIds, item: str) -> int:
    """Dense id of the user's own id."""
    known = ids.item_ids
    own: Any = item
    if pa.types.is_integer(known.type):
        try:
            own = int(item)
        except ValueError:
            raise DataError(f"--item: '{item}' is not an item id of {ids.path}, whose ids are integers") from None
    place = pc.index(known, pa.scalar(own, known.type)).as_py() if _fits(own) else -1
    if place >= 0:
        return int(place)
    gone = pc.index(ids.retired.item_ids, pa.scalar(own, known.type)).as_py() if _fits(own) else -1
    if gone >= 0:
        sid = _sid(ids.retired.codes_IL[gone].tolist())
        raise DataError(
            f"--item: item {item} of {ids.path} is retired; its Semantic ID {sid} stays taken but leads nowhere"
        )
    values = known.to_pylist()  # sorted, as a dataset's ids are: the neighbours in that order are the likeliest meant
    spot = bisect.bisect_left(values, own)
    near = values[max(0, spot - _NEAREST // 2 - 1) : spot + _NEAREST // 2 + 1]
    raise DataError(f"--item: {ids.path} has no item {own!r}; the nearest ids are {', '.join(map(str, near))}")


def _fits(own: Any) -> bool:
    return isinstance(own, str) or -(2**63) <= own < 2**63


def _inside(ids: SemanticIds, prefix: Sequence[int]) -> Tensor:
    if len(prefix) > ids.levels:
        raise DataError(
            f"--prefix: {_sid(prefix)} has {len(prefix)} codes, but Semantic IDs of {ids.path} have {ids.levels}"
        )
    inside_I = torch.ones(ids.n_items, dtype=torch.bool)
    for level, code in enumerate(prefix):
        deeper_I = inside_I & (ids.codes_IL[:, level] == code)
        if not deeper_I.any():
            choices = ids.codes_IL[inside_I, level].unique()
            near = choices[(choices - code).abs().argsort(stable=True)[:_NEAREST]].sort().values.tolist()
            where = f"after {_sid(prefix[:level])}" if level else "at level 1"
            raise DataError(
                f"--prefix: no item of {ids.path} has code {code} {where}; the nearest codes there are "
                f"{', '.join(map(str, near))} (of {len(choices)})"
            )
        inside_I = deeper_I
    return inside_I


def _list(branch: Tree, dataset: Dataset, items: Tensor, show: int) -> None:
    for title in dataset.titles(items[:show].tolist()) if len(items) and show else ():
        branch.add(_title(title))
    if len(items) > show:
        branch.add(f"[dim]… and {len(items) - show:,} more[/]")


def _title(text: str) -> str:
    # A title with escape sequences must not steer the terminal.
    text = plain(text)
    return escape(text if len(text) <= _TITLE_WIDTH else f"{text[: _TITLE_WIDTH - 1]}…")


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _sid(codes: Sequence[int]) -> str:
    return ",".join(map(str, codes))
