"""The page of Semantic IDs: figures as measured, the largest prefixes, titles escaped, artefact untouched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from intrr_rec.cli import app
from intrr_rec.config import IndexConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.reporting import index_report
from intrr_rec.reporting.index_report import write_index_report
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from tests.reporting.test_report import NASTY, Page
from tests.semantic_ids.catalogue import make_catalogue

N_ITEMS = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Version 2 of an index, its dataset, and another dataset."""
    folder = tmp_path_factory.mktemp("index")
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 6)).astype(np.float32)
    first = make_catalogue(folder / "first", range(100), vectors[:100])
    second = make_catalogue(folder / "second", range(10, N_ITEMS), vectors[10:])
    build_semantic_ids(*first, folder / "v1", IndexConfig(levels=2, codes=10, dedup_codes=16))
    extend_semantic_ids(folder / "v1", *second, folder / "v2", IndexConfig())
    return folder / "v2", second[0], first[0]


@pytest.fixture(scope="module")
def page(made):
    target = write_index_report(made[0], made[1])
    assert target == made[0].with_name("v2.report.html")
    return Page(target.read_text(encoding="utf-8"))


def test_shows_what_was_measured(made, page):
    ids = SemanticIds.open(made[0])  # the page beside it altered nothing
    quality = ids.quality
    for name in ("neighbour_purity", "category_purity"):
        for level in quality[name]:
            assert f"{level['share']:.1%} ({level['chance']:.1%})" in page.words
    assert f"{quality['collisions']['distinct_rate']:.1%}" in page.words
    assert ids.drift["verdict"] in page.words and "10 retired" in page.words
    assert ids.manifest.parents["semantic ids"] in page.words
    figures = page.figures()
    assert sum(label.startswith("Items per code at level") for label in figures) == 2
    assert "Even" in page.words and "Title 10" in page.words


def test_page_is_self_contained(made, page):
    text = made[0].with_name("v2.report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not any(tag in ("script", "link", "img") for tag, _ in page.tags)


def test_nasty_titles_stay_words(made, monkeypatch):
    monkeypatch.setattr(index_report.Dataset, "titles", lambda self, items=None: [NASTY for _ in items])
    page = Page(write_index_report(made[0], made[1]).read_text(encoding="utf-8"))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert NASTY in page.words


def test_verbs_reach_it(made, tmp_path, capsys):
    ids, dataset, _ = (str(path) for path in made)
    app(["report", "--semantic-ids", ids, "--dataset", dataset], standalone_mode=False)
    assert capsys.readouterr().out.strip().endswith("v2.report.html")
    app(["inspect-ids", "--semantic-ids", ids, "--dataset", dataset, "--item", "15"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("Title 15  item 15, sid ")
    words = [
        "--dataset",
        dataset,
        "--vectors",
        str(Path(dataset).parent / "vectors.parquet"),
        "--out",
        str(tmp_path / "v3"),
    ]
    app(["index", "--extend", ids, *words], standalone_mode=False)
    assert SemanticIds.open(tmp_path / "v3").version == 3


@pytest.mark.parametrize("words", [[], ["--run", "r", "--dataset", "d"], ["--semantic-ids", "s"]])
def test_report_of_neither_or_both_is_one_line(words):
    with pytest.raises(ConfigError, match="either --run DIR, or --semantic-ids DIR and --dataset DIR"):
        app(["report", *words], standalone_mode=False)


def test_another_dataset_is_refused(made):
    with pytest.raises(ArtefactError, match="was built from dataset"):
        write_index_report(made[0], made[2])


def test_lists_the_largest_prefixes_with_their_main_category(made):
    ids, data = SemanticIds.open(made[0]), Dataset.open(made[1])
    rows = index_report._largest_prefixes(ids, data)
    codes = ids.codes_IL[:, 0].tolist()
    label_of = ["Odd" if item % 2 else "Even" for item in ids.item_ids.to_pylist()]
    assert [row["items"] for row in rows] == sorted(Counter(codes).values(), reverse=True)[:12]
    for row in rows:
        below = [item for item, code in enumerate(codes) if code == row["prefix"]]
        assert row["items"] == len(below) and row["titles"] == data.titles(below[:3])
        assert row["children"] == len({ids.codes_IL[item, 1].item() for item in below})
        counts = Counter(label_of[item] for item in below)
        assert counts[row["category"]] == max(counts.values()) == pytest.approx(row["share"] * len(below))
