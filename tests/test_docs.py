"""Every internal link of the pages resolves; every file of the code, verb and option that a page names exists."""

import re
from pathlib import Path

import pytest
import typer

from intrr_rec.cli import app

ROOT = Path(__file__).parents[1]
OWN = ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
FOLDERS = ("docs", "datasets", "benchmarks", "examples", "configs")
PAGES = sorted(
    [ROOT / name for name in OWN if (ROOT / name).is_file()]
    + [page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_FILE = re.compile(r"`([a-z_]+(?:/[a-z_0-9]+)+\.py)`")
# Code of a page: fenced blocks, whose lines may go on after a backslash, and words between backticks.
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
CALL = re.compile(r"(?:^|[\s&;|(])intrr +([a-z][a-z-]*)([^\n;|&#`]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
BASES = (ROOT, ROOT / "intrr_rec")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts derive them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files, or to headings, that do not exist."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_of_the_code_exist(page: Path) -> None:
    named = CODE_FILE.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not any((base / name).is_file() for base in BASES)] == []


def wrong_calls(page: Path) -> list[str]:
    """Calls of `intrr` in the code of a page whose verb, or an option of it, the command line does not have."""
    text = page.read_text(encoding="utf-8")
    snippets = FENCE.findall(text) + INLINE.findall(FENCE.sub("", text))
    commands = vars(typer.main.get_command(app))["commands"]
    wrong = []
    for snippet in snippets:
        for verb, rest in CALL.findall(snippet.replace("\\\n", " ")):
            if verb not in commands:
                wrong.append(verb)
                continue
            known = {name for parameter in commands[verb].params for name in parameter.opts} | {"--help"}
            wrong += [f"{verb} {option}" for option in OPTION.findall(rest) if option not in known]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_exist(page: Path) -> None:
    assert wrong_calls(page) == []


def test_wrong_commands_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`intrr trian` and `intrr train --dataset d --semantics s`\n"
        "```\nintrr export runs/first \\\n  --outt b  # --no option\nintrr runs x; intrr shwo y\n```\n"
    )
    assert sorted(wrong_calls(page)) == ["export --outt", "shwo", "train --semantics", "trian"]


def test_broken_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](page.md#one-thing) [b](page.md#other) [c](no.md) [d](https://example.org)\n")
    assert broken_links(page) == ["page.md#other", "no.md"]
