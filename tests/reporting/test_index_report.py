"""The page of Semantic IDs: figures as measured, sunbursts whose sectors tile, titles escaped, artefact untouched."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from intrr_rec.cli import app
from intrr_rec.config import IndexConfig
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.reporting import index_report
from intrr_rec.reporting.index_report import write_index_report
from intrr_rec.reporting.sunburst import draw, sectors
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
    assert sum(label.startswith("Sunburst of") for label in figures) == 4
    assert any(label.startswith(f"Sunburst of {ids.n_items} items: 10 prefixes") for label in figures)
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
    assert capsys.readouterr().out.startswith("Title 15  item 15, path ")
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


@pytest.mark.parametrize("within", [(), (1,)])
def test_sectors_tile_both_rings(within):
    rng = np.random.default_rng(3)
    codes_IL = np.stack([rng.integers(0, 5, 20_000), rng.integers(0, 700, 20_000) % 400, rng.integers(0, 9, 20_000)], 1)
    label_I = rng.integers(-1, 4, 20_000)
    found = sectors(codes_IL, label_I, within)
    inside_I = (codes_IL[:, : len(within)] == within).all(1) if within else np.ones(20_000, bool)
    for ring in (0, 1):
        parts = [part for part in found if part.ring == ring]
        assert parts[0].start == 0 and parts[-1].end == pytest.approx(1)
        assert all(a.end == pytest.approx(b.start) for a, b in itertools.pairwise(parts))
        assert sum(part.items for part in parts) == inside_I.sum()
        assert len(parts) < 2_000
    for part in found:
        below_I = (codes_IL[:, : len(part.prefix)] == part.prefix).all(1)
        assert all(below_I[item] for item in part.examples)
        if part.merged == 1:
            assert part.items == below_I.sum()
            assert part.label_items == np.bincount(label_I[below_I & (label_I >= 0)], minlength=1).max()
    assert any(part.merged > 1 for part in found) or within


def test_items_of_one_category_stand_together():
    codes_IL = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [1, 1]])
    parts = [part for part in sectors(codes_IL, np.array([0, 1, 0, 1, 1])) if part.ring == 0]
    assert [part.prefix[0] for part in parts] == [1, 3, 0, 2]


def test_one_sector_is_a_whole_ring_and_no_category_is_grey():
    [inner, outer] = sectors(np.zeros((3, 2), int), np.full(3, -1))
    svg = draw([inner, outer], {}, (), str, by_category=False)
    assert svg.count("<path") == 2 and "var(--muted)" in svg and "var(--series" not in svg
    assert (inner.end, outer.end) == (1, 1)
