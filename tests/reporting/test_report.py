"""The report: everything recorded is shown, nothing is trusted, nothing is fetched."""

from __future__ import annotations

import math
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from intrr_rec.config import Recipe, save_recipe
from intrr_rec.evaluation.slices import HISTORY_FROM, POPULARITY_FROM, as_slices, slice_sums
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.formats.records import sealed_text
from intrr_rec.reporting import plots
from intrr_rec.reporting.report import write_report
from intrr_rec.semantic_ids.quality.metrics import measure_quality
from tests.sealing import write_metric_lines, write_sealed

LEVELS, CODES = 4, 128
NASTY = 'Shampoo <script>alert("x")</script> & $5 off $10_{a}'
TITLES = ["Argan Oil Shampoo, 16.9 Ounce", "Bristle Brush with Ionic Bristles", "Daily Moisturiser SPF 15 4 oz", NASTY]


def metrics(scale: float) -> dict[str, float]:
    values = {f"recall@{k}": scale * (1 - math.exp(-k / 9)) for k in (1, 5, 10, 20)}
    return values | {f"ndcg@{k}": 0.6 * values[f"recall@{k}"] for k in (5, 10, 20)}


def item(number: int, sid: list[int]) -> dict:
    return {"item_id": number, "title": TITLES[number % len(TITLES)], "sid": sid}


def quality(rng: np.random.Generator) -> dict:
    codes = [rng.choice(CODES, 12101, p=rng.dirichlet(np.full(CODES, 4.0))) for _ in range(LEVELS - 1)]
    codes_IL = torch.from_numpy(np.stack(codes, axis=1))
    codes_IL[:40] = codes_IL[0]
    return measure_quality(codes_IL, [CODES] * (LEVELS - 1), [0.61, 0.48, 0.41])


def write_plan(run: Path) -> None:
    write_text(run / "plan.txt", sealed_text("rank 0 | uid | data_parallel | dense | 12101 x 128 <all>\n"))


def write_metrics(run: Path, steps: int = 300, epochs: int = 20) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        noise = float(rng.normal(0, 0.15))
        line = {"step": step, "epoch": done * epochs, "split": "train", "seconds": 0.4 * step}
        line |= {"loss": 14 - 6 * done + noise, "loss_rec": 13 - 5.5 * done + noise, "loss_align": 16 - 14 * done}
        line |= {f"rec_entropy_l{n}": 4.8 - 0.4 * n * done for n in range(1, LEVELS + 1)}
        line |= {f"align_accuracy_l{n}": 1 - math.exp(-n * done * 2) for n in range(1, LEVELS + 1)}
        line |= {"learning_rate": 0.001, "users_per_second": 1250.0 + 20 * noise, "memo": "unknown, not a number"}
        lines.append(line)
    for epoch in range(1, epochs + 1):
        figures = metrics(0.09 * (1 - math.exp(-epoch / 6)))
        lines.append({"step": epoch * 40, "epoch": float(epoch), "split": "valid", "seconds": 16.0 * epoch} | figures)
    write_metric_lines(run / "metrics.jsonl", lines)


SLICED = [
    ("popularity", [0, 1, 9, 15, 30, 700], POPULARITY_FROM),
    ("history", [4, 7, 12, 30], HISTORY_FROM),
]


def bands(values: list[int], edges: tuple[int, ...]) -> list[dict]:
    ranks = torch.arange(1, 3 * len(values) + 1) % 14
    return as_slices(slice_sums(np.repeat(values, 3), ranks, edges), edges)


def write_results(run: Path) -> None:
    results = {"name": "beauty-paper", "seed": 3, "wall_seconds": 5025.4, "epochs": 20, "best_epoch": 18}
    results |= {
        "world_size": 2,
        "device": "cpu, 2 × gloo",
        "command": "intrr train --dataset d --semantic-ids s --out r",
    }
    results |= {"dataset": {"users": 22363, "items": 12101, "interactions": 198502}}
    results |= {"baseline": {"name": "most popular", "metrics": metrics(0.0152)}}
    results |= {"valid": metrics(0.0886), "test": metrics(0.0712)}
    results |= {"intervals": {"test": {"recall@10": [0.0691, 0.0735]}}}
    results |= {"slices": {kind: bands(found, edges) for kind, found, edges in SLICED}}
    results |= {"beyond_accuracy": {"coverage@10": 0.3127, "novelty@10": 12.8431, "gini@10": 0.9012}}
    results |= {"semantic_ids": quality(np.random.default_rng(1))}
    write_sealed(run / "results.json", results)


def write_inspection(run: Path) -> None:
    rng = np.random.default_rng(2)
    sharing = []
    for number in range(3):
        sid = [17, 93, 5, number]
        peaks = [17, 93 if number else 40, 5, number]
        p = [rng.dirichlet(np.full(CODES, 0.05)) * 0.3 + 0.7 * np.eye(CODES)[peak] for peak in peaks]
        sharing.append(item(number, sid) | {"levels": [[float(value) for value in row] for row in p]})
    examples = []
    for user in range(3):
        history = [item(n, [n, n + 1, n + 2, 0]) for n in range(5 + user)]
        recommended = [item(n, [n, 2 * n, 9, 1]) | {"score": -2.0 - 0.3 * n} for n in range(20, 30)]
        examples.append(
            {"user_id": f"u{user}", "history": history, "target": item(20 + 7 * user, [3, 4, 5, 0])}
            | {"recommended": recommended}
        )
    write_sealed(run / "inspection.json", {"redistribution": sharing, "examples": examples})


def full_run(run: Path) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    save_recipe(Recipe(), run / "config.yaml")
    for write in (write_plan, write_metrics, write_results, write_inspection):
        write(run)
    return run


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    VOID = ("meta", "link", "br", "img", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words += data

    def figures(self) -> list[str]:
        return [attrs["aria-label"] or "" for tag, attrs in self.tags if tag == "svg"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return full_run(tmp_path_factory.mktemp("full") / "beauty")


@pytest.fixture(scope="module")
def text(run) -> str:
    target = write_report(run)
    assert target == run / "report.html"
    return target.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_header_gives_headline_baseline_ratio_and_run_facts(page):
    test, popular = metrics(0.0712), metrics(0.0152)
    for metric in ("recall@10", "ndcg@10"):
        assert f"{test[metric]:.4f}" in page.words
        assert f"{popular[metric]:.4f} · {test[metric] / popular[metric]:.1f} times the baseline" in page.words
    for fact in (
        "22,363 users",
        "198,502 interactions",
        "1 h 23 min",
        "world size 2",
        "20, best 18",
        "95 % interval: 0.0691 to 0.0735",
        "--semantic-ids s",
    ):
        assert fact in page.words


def test_metric_table_has_all_rows_and_columns_in_order(text):
    head = text[text.index("<thead>") : text.index("</thead>")]
    places = [head.index(f">{name}<") for name in metrics(1.0)]
    assert places == sorted(places)
    for row in ("test", "validation", "most popular (test)", "test / most popular"):
        assert f'<th scope="row">{row}</th>' in text


def test_every_family_of_numbers_has_its_figure(page):
    figures = page.figures()
    wanted = ["Training: loss: loss, loss_align, loss_rec over epoch"]
    wanted += ["Validation: recall@k: recall@1, recall@5, recall@10, recall@20 over epoch"]
    wanted += ["Validation: ndcg@k: ndcg@5, ndcg@10, ndcg@20 over epoch"]
    wanted += [
        f"Training: {name} per level: level 1, level 2, level 3, level 4" for name in ("rec entropy", "align accuracy")
    ]
    wanted += ["Training: learning rate", "Training: users per second", "Semantic IDs by the number of items"]
    wanted += [f"Items per code at level {level}" for level in range(1, LEVELS)]
    wanted += [f"Distribution over the codes of level {level}" for level in range(1, LEVELS + 1)]
    for beginning in wanted:
        assert sum(label.startswith(beginning) for label in figures) == 1, beginning
    wanted = [
        "By training events of the target; below, share of users (0 16.7%, 1–4 16.7%",
        "By events before the target; below, share of users (1–4 25.0%",
    ]
    for beginning in wanted:
        assert sum(label.startswith(beginning) for label in figures) == 1, beginning
    assert len(figures) == 2 + 3 + 2 + 2 + 1 + (LEVELS - 1) + LEVELS


def test_slices_and_figures_beyond_accuracy_are_shown_as_measured(page):
    for kind, values, edges in SLICED:
        for record in bands(values, edges):
            assert f"{record['share']:.1%}" in page.words
            if record["metrics"]:
                assert f"{record['metrics']['ndcg@20']:.4f}" in page.words
                assert any(f"{record['metrics']['ndcg@10']:.4f}" in label for label in page.figures()), kind
    assert any("none" in label for label in page.figures() if label.startswith("By events before the target"))
    for said in ("coverage@10: 0.3127", "novelty@10: 12.8431", "gini@10: 0.9012"):
        assert said in page.words


def test_results_of_an_earlier_version_say_what_to_run(tmp_path):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    write_sealed(tmp_path / "results.json", {"test": metrics(0.05), "valid": metrics(0.06)})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for line in ("The metrics are not sliced here", "What is recommended to how many was not counted"):
        assert f"{line}: run intrr evaluate --run {tmp_path}" in page.words


def test_redistribution_names_the_own_code_and_a_moved_peak(page):
    second = next(label for label in page.figures() if "codes of level 2" in label and label.startswith("Dist"))
    shifted, kept = second.split(". ")[1:3]
    assert shifted.startswith("A, SID 93: p = 0.0") and "; peak 40: p = 0.7" in shifted
    assert kept.startswith("B, SID 93: p = 0.7") and "peak" not in kept
    assert "17 · 93 · 5 · 0" in page.words


def test_hits_are_said_in_words(page):
    assert page.words.count("✓ hit:") == 2
    assert page.words.count("The next item is not in the list.") == 1


def test_titles_are_escaped_and_shown_as_they_are(page):
    assert NASTY in page.words
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "12101 x 128 <all>" in page.words


def test_page_is_self_contained_and_small(text, page):
    assert "http:" not in text and "https:" not in text and "@import" not in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "script")
        assert not attrs.get("src")
        if attrs.get("href"):
            assert attrs["href"].removeprefix("#") in ids
        for name in ("clip-path", "style"):
            if "url(" in (attrs.get(name) or ""):
                assert attrs[name].split("url(#")[1].split(")")[0] in ids
    assert len(text.encode()) < 1_000_000
    assert "#0102" not in text, "a stand-in colour was not replaced"


def test_semantic_id_quality_is_shown_as_measured(page):
    measured = quality(np.random.default_rng(1))
    collisions = measured["collisions"]
    assert collisions["largest"] >= 40
    assert f"{collisions['distinct_sids']:,} ({collisions['distinct_rate']:.1%} of items)" in page.words
    assert f"Items that share their codes{collisions['rate']:.1%}" in page.words
    for level in measured["levels"]:
        assert f"{level['entropy_ratio']:.3f}" in page.words and f"{level['perplexity']:.1f}" in page.words


def test_only_the_report_is_added_to_the_run(run, text):
    files = ["config.yaml", "inspection.json", "metrics.jsonl", "plan.txt", "report.html", "results.json"]
    assert sorted(path.name for path in run.iterdir()) == files


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plan.txt", "No sharding plan was saved; to train into this folder: run intrr train --out"),
        ("metrics.jsonl", "No curves were recorded; to train into this folder: run intrr train --out"),
        ("results.json", "The run has no results yet; let the training end, then: run intrr evaluate --run"),
        ("inspection.json", "No users were inspected: run intrr evaluate --run"),
    ],
)
def test_missing_part_says_what_to_run(tmp_path, monkeypatch, name, line):
    monkeypatch.setattr(plots, "_svg", lambda _, said: f'<svg aria-label="{escape(said)}"></svg>')  # drawing is slow
    run = full_run(tmp_path / "my run")
    (run / name).unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert f"{line} '{run}'" in page.words
    others = {
        "plan.txt": "12101 x 128",
        "metrics.jsonl": "level 1",
        "results.json": "22,363",
        "inspection.json": "✓ hit",
    }
    for other, sign in others.items():
        seen = sign in page.words or any(sign in label for label in page.figures())
        assert seen or other == name


def test_configuration_alone_is_enough(tmp_path):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.figures() == []
    assert "align_weight: 0.1" in page.words
    assert page.words.count(": run intrr") == 8


def test_diverged_and_unfinished_training_still_draws(tmp_path):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    lines = [{"step": n, "split": "train", "loss": loss} for n, loss in enumerate([9.5, math.nan, math.inf, 8.0])]
    torn = '{"step": 4, "split": "tra'
    write_metric_lines(tmp_path / "metrics.jsonl", lines, torn)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.figures() == ["Training: loss: loss over step"]


def test_sums_join_the_losses_or_their_levels(tmp_path):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    line = {"step": 5, "epoch": 1, "split": "train", "loss": 9.0, "rec_nll": 8.0, "rec_nll_l1": 3.0, "rec_nll_l2": 5.0}
    line |= {"align_entropy": 6.0, "align_entropy_l1": 4.0, "align_entropy_l2": 2.0, "users_per_second": None}
    write_metric_lines(tmp_path / "metrics.jsonl", [line])
    assert Page(write_report(tmp_path).read_text(encoding="utf-8")).figures() == [
        "Training: loss: loss, rec_nll over epoch",
        "Training: align entropy per level: level 1, level 2, sum of levels over epoch",
        "Training: rec nll per level: level 1, level 2 over epoch",
    ]


def test_sparse_records_do_not_break_the_page(tmp_path):
    save_recipe(Recipe(), tmp_path / "config.yaml")
    write_sealed(tmp_path / "results.json", {"test": {"recall@10": 0.05}, "unheard_of": 1})
    examples = [{"user_id": 7, "history": [], "target": {"item_id": 1, "title": None}, "recommended": []}]
    write_sealed(tmp_path / "inspection.json", {"examples": examples})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "0.0500" in page.words and "item 1" in page.words and tmp_path.name in page.words
    assert "times the baseline" not in page.words
