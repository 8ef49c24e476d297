"""Imports run downward only, and the lower floors know nothing of ranks."""

import ast
from pathlib import Path

import pytest

import intrr_rec

ROOT = Path(intrr_rec.__file__).parent
FLOORS = [
    {"errors"},
    {"storage"},
    {"artefact"},
    {"jobs"},
    {"config"},
    {"data"},
    {"models"},
    {"decoding", "parallel"},
    {"indexing"},
    {"training"},
    {"serving"},
    {"reporting"},
    {"bench"},
    {"experiments"},
    {"pipeline"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
RANK_FREE = ("data", "models", "decoding")
RANKS = ("torch.distributed", "torchrec.distributed")
FILES = sorted(ROOT.rglob("*.py"))


def imported(source: str, module: str) -> set[str]:
    """Dotted names a file imports anywhere, functions included; `from a import b` counts as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def attributes(source: str) -> set[str]:
    """Dotted attribute chains a file uses, such as `torch.distributed.init_process_group`."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def upward(source: str, module: str) -> list[str]:
    """Imports of `module` (dotted, in intrr_rec) that do not go to a lower floor or stay in its own room."""
    room = module.split(".")[1]
    wrong = []
    for name in sorted(imported(source, module)):
        parts = name.split(".")
        if parts[0] != "intrr_rec" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        if FLOOR_OF[parts[1]] >= FLOOR_OF[room]:
            wrong.append(name)
    return wrong


def dotted(path: Path) -> str:
    return ".".join(["intrr_rec", *path.relative_to(ROOT).with_suffix("").parts])


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms <= set(FLOOR_OF), "give the new room a floor in this file and in docs/architecture.md"


@pytest.mark.parametrize("path", [p for p in FILES if p != ROOT / "__init__.py"], ids=dotted)
def test_imports_run_downward(path: Path) -> None:
    assert upward(path.read_text(encoding="utf-8"), dotted(path)) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] in RANK_FREE], ids=dotted)
def test_lower_rooms_know_nothing_of_ranks(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    used = imported(source, dotted(path)) | attributes(source)
    assert [name for name in sorted(used) if f"{name}.".startswith(tuple(f"{rank}." for rank in RANKS))] == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("intrr_rec.data.loader", "from intrr_rec.models.hstu import Hstu", ["intrr_rec.models.hstu.Hstu"]),
        ("intrr_rec.data.loader", "def f():\n    import intrr_rec.training", ["intrr_rec.training"]),
        ("intrr_rec.parallel.plan", "from intrr_rec import decoding", ["intrr_rec.decoding"]),
        ("intrr_rec.models.intrr", "from ..cli import app", ["intrr_rec.cli.app"]),
        ("intrr_rec.models.intrr", "from intrr_rec.models import ran\nfrom intrr_rec.data import batch", []),
    ],
)
def test_the_walk_sees_upward_imports(module: str, source: str, expected: list[str]) -> None:
    assert upward(source, module) == expected
