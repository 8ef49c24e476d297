"""Imports run downward only, and the lower layers know nothing of ranks."""

import ast
from pathlib import Path

import pytest

import intrr_rec

ROOT = Path(intrr_rec.__file__).parent
LAYERS = [
    {"errors"},
    {"interrupts"},
    {"io"},
    {"config"},
    {"data"},
    {"vectors"},
    {"models"},
    {"distributed"},
    {"semantic_ids"},
    {"decoding"},
    {"runs"},
    {"evaluation"},
    {"training"},
    {"serving"},
    {"promotion"},
    {"reporting"},
    {"pipeline"},
    {"doctor", "install"},
    {"api"},
    {"testing"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
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
    """Imports of `module` (dotted, in intrr_rec) that do not go to a lower layer or stay in its own package."""
    package = module.split(".")[1]
    wrong = []
    for name in sorted(imported(source, module)):
        parts = name.split(".")
        if parts[0] != "intrr_rec" or len(parts) == 1 or parts[1] in (package, "__version__"):
            continue
        if LAYER_OF[parts[1]] >= LAYER_OF[package]:
            wrong.append(name)
    return wrong


def dotted(path: Path) -> str:
    return ".".join(["intrr_rec", *path.relative_to(ROOT).with_suffix("").parts])


def test_every_package_has_a_layer() -> None:
    packages = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert packages <= set(LAYER_OF), "give the new package a layer in this file and in docs/architecture.md"


@pytest.mark.parametrize("path", [p for p in FILES if p != ROOT / "__init__.py"], ids=dotted)
def test_imports_run_downward(path: Path) -> None:
    assert upward(path.read_text(encoding="utf-8"), dotted(path)) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] in RANK_FREE], ids=dotted)
def test_lower_packages_know_nothing_of_ranks(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    used = imported(source, dotted(path)) | attributes(source)
    assert [name for name in sorted(used) if f"{name}.".startswith(tuple(f"{rank}." for rank in RANKS))] == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (
            "intrr_rec.data.loading.loader",
            "from intrr_rec.models.backbones.hstu import Hstu",
            ["intrr_rec.models.backbones.hstu.Hstu"],
        ),
        ("intrr_rec.data.loading.loader", "def f():\n    import intrr_rec.training", ["intrr_rec.training"]),
        ("intrr_rec.distributed.planner.plan", "from intrr_rec import decoding", ["intrr_rec.decoding"]),
        ("intrr_rec.models.intrr", "from ..cli import app", ["intrr_rec.cli.app"]),
        ("intrr_rec.models.intrr", "from intrr_rec.models import ran\nfrom intrr_rec.data import batch", []),
    ],
)
def test_the_walk_sees_upward_imports(module: str, source: str, expected: list[str]) -> None:
    assert upward(source, module) == expected
