"""The page and the terminal say all that was found; errors end in exit code 2, after the page was written."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from intrr_rec import cli
from intrr_rec.data.validate.findings import Examination, Extent, Finding
from intrr_rec.reporting.validation import page, show

FOUND = Examination(
    name="shop & co",
    files=2,
    raw=Extent(1_000, 50, 20, 0, 10**9),
    kept=Extent(900, 40, 19, 0, 10**9),
    findings=[
        Finding("clock", "fine", "seconds"),
        Finding("values", "error", "row 3: <b> is no id", "fix <it>"),
        Finding("ties", "warning", "a tie", "keep the order"),
    ],
    lengths={5: 10, 6: 20, 300: 1},
    popularity={1: 100, 7: 10, 5_000: 1},
    periods={86_400 * n: n for n in range(60)},
)


def test_the_page_shows_every_finding_escaped_and_stands_alone() -> None:
    text = page(FOUND)
    assert "shop &amp; co" in text and "&lt;b&gt; is no id" in text and "fix &lt;it&gt;" in text
    assert text.index("is no id") < text.index("a tie") < text.index("seconds")
    assert text.count("<svg") == 4
    assert not re.search(r"(src|href)=\"(?!#)", text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg.replace("xlink:", ""))
    assert "1 error, 1 warning, 1 check without complaint" in text


def test_a_page_without_anything_read_has_no_figures() -> None:
    text = page(Examination("none", findings=[Finding("files", "error", "x.csv: is empty")]))
    assert "<svg" not in text and "x.csv: is empty" in text


def test_the_terminal_says_errors_first() -> None:
    out = io.StringIO()
    show(FOUND, Console(file=out, width=100))
    text = out.getvalue()
    assert text.index("row 3: <b> is no id") < text.index("a tie") < text.index("seconds")
    assert "fix <it>" in text and "keep the order" in text


def test_the_verb_reads_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"u{u},i{(u * 3 + n) % 7},{86_400 * n}\n" for u in range(20) for n in range(4))
    (tmp_path / "logs.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (tmp_path / "shop.yaml").write_text(
        "title: Shop\ninteractions: logs.csv\nvectors: none.parquet\nabout_vectors: none\n"
    )
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["intrr", "validate", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    assert run("shop.yaml", "--data", str(tmp_path), "prepare.k_core=1") == 0
    assert "shop: no errors" in capsys.readouterr().out
    assert "lie before 1990" in (tmp_path / "shop.validation.html").read_text()
    assert run("shop.yaml", "--data", str(tmp_path), "prepare.k_core=9", "--out", "bad.html") == 2
    assert "leaves none" in capsys.readouterr().err and "leaves none" in (tmp_path / "bad.html").read_text()
    assert run("prepare.k_core=1") == 2
    assert "either one descriptor" in capsys.readouterr().err
