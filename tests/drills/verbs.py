"""One row a verb: what it is asked for, and where it writes. A verb without a row fails `test_places.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from intrr_rec.io import artefact
from intrr_rec.io.registry import REGISTRY, Registry, write_record
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests.tiny import SMALL, Line, make_line, recipe

INDEX = ("index.levels=2", "index.codes=5", "index.dedup_codes=8", "index.iterations=5")


@dataclass(frozen=True)
class Stock:
    """What the verbs read: whole, on a disk with room."""

    folder: Path
    line: Line
    run: Path
    bundle: Path

    @classmethod
    def make(cls, folder: Path) -> Stock:
        stock = cls(folder, make_line(folder), folder / "run", folder / "bundle")
        train(recipe("train.epochs=1"), out=stock.run, **stock.line.inputs())
        write_bundle(stock.run, stock.bundle)
        tree = {"title": "t", "interactions": "logs.parquet", "download": [{"url": f"file://{folder}/logs.parquet"}]}
        (folder / "described.yaml").write_text(yaml.safe_dump(tree))
        return stock

    @property
    def logs(self) -> str:
        return str(self.folder / "logs.parquet")

    def pipeline(self, work: Path) -> str:
        tree = {
            "work": str(work),
            "interactions": [self.logs],
            "vectors": str(self.line.vectors),
            "settings": ["prepare.k_core=1", "prepare.time_column=timestamp", *INDEX, *SMALL],
        }
        file = self.folder / f"{work.parent.name}-{work.parent.parent.name}.yaml"
        file.write_text(yaml.safe_dump(tree))
        return str(file)

    def study(self, work: Path) -> str:
        tree = {
            "work": str(work),
            "dataset": str(self.line.dataset),
            "semantic_ids": str(self.line.semantic_ids),
            "settings": [*SMALL, "train.epochs=1"],
            "search": {"train.learning_rate": {"values": [0.01]}},
            "trials": 1,
        }
        file = self.folder / f"{work.parent.name}-{work.parent.parent.name}-study.yaml"
        file.write_text(yaml.safe_dump(tree))
        return str(file)


Words = Callable[[Stock, Path], list[str]]


@dataclass(frozen=True)
class Row:
    """A verb's drill.

    Attributes:
        words: what follows the verb, from the stock and the folder of the disk.
        writes: below the disk, what appears when it ends well; None where a verb writes nothing but its output.
        has_run: a copy of the run lies on the disk as `run`, and is written into.
        small: what it writes fits into the one block that a nearly full disk has left.
        resumes: the prefix of what a job that is to go on later keeps beside its output.
    """

    words: Words
    writes: str | None = None
    has_run: bool = False
    small: bool = False
    resumes: str | None = None

    def given(self, stock: Stock, place: Path) -> list[str]:
        if self.has_run and not (place / "run").exists():
            shutil.copytree(stock.run, place / "run")
        return self.words(stock, place)


def _dataset(stock: Stock) -> list[str]:
    return ["--dataset", str(stock.line.dataset)]


def _ids(stock: Stock) -> list[str]:
    return ["--semantic-ids", str(stock.line.semantic_ids)]


def _vectors(stock: Stock) -> list[str]:
    return ["--vectors", str(stock.line.vectors)]


def _registry(stock: Stock, place: Path) -> list[str]:
    """A registry on the disk that can be rolled back."""
    registry, content_hash = place / "registry", artefact.peek(stock.bundle).content_hash
    if not registry.exists():
        shutil.copytree(stock.bundle, registry / "bundles" / content_hash[:16])
        record = Registry(current=content_hash, previous=content_hash, decision=1)
        write_record(registry, REGISTRY, record.model_dump())
    return [str(registry)]


ROWS = {
    "pipeline": Row(lambda s, p: [s.pipeline(p / "work")], "work/bundle", resumes="work"),
    "tune": Row(lambda s, p: [s.study(p / "work")], "work/best.yaml", resumes="work"),
    "runs": Row(lambda s, p: [str(s.folder)]),
    "generate": Row(lambda s, p: ["--users", "300", "--items", "100", "--out", f"{p}/out"], "out"),
    "fetch": Row(lambda s, p: [f"{s.folder}/described.yaml", "--data", f"{p}/data"], "data/logs.parquet"),
    "prepare": Row(lambda s, p: ["--interactions", s.logs, "--out", f"{p}/out", "prepare.k_core=1"], "out"),
    "validate": Row(
        lambda s, p: ["--interactions", s.logs, "--out", f"{p}/page.html", "prepare.k_core=1"], "page.html"
    ),
    "describe": Row(lambda s, p: [str(s.logs)]),
    "embed": Row(lambda s, p: [*_dataset(s), "--model", f"{s.folder}/no-model", "--out", f"{p}/out"], "out"),
    "concat-vectors": Row(lambda s, p: [*_dataset(s), "--vectors", f"a={s.line.vectors}", "--out", f"{p}/out"], "out"),
    "index": Row(lambda s, p: [*_dataset(s), *_vectors(s), "--out", f"{p}/out", *INDEX], "out"),
    "inspect-ids": Row(lambda s, p: [*_ids(s), *_dataset(s), "--item", "3"]),
    "train": Row(lambda s, p: [*_dataset(s), *_ids(s), "--out", f"{p}/out", *SMALL, "train.epochs=1"], "out"),
    "plan": Row(lambda s, p: ["--items", "1000", "--ranks", "2", "--out", f"{p}/plan.json"], "plan.json", small=True),
    "evaluate": Row(lambda s, p: ["--run", f"{p}/run"], "run", has_run=True),
    "export": Row(lambda s, p: [str(s.run), "--out", f"{p}/out"], "out"),
    "recommend": Row(
        lambda s, p: ["--bundle", str(s.bundle), *_dataset(s), "--out", f"{p}/out"], "out", resumes=".out.recommend"
    ),
    "promote": Row(lambda s, p: [str(s.bundle), "--over", f"{p}/registry", "--on", str(s.line.dataset)], "registry"),
    "rollback": Row(_registry, "registry/registry.json", small=True),
    "serve": Row(lambda s, p: [str(s.bundle), "--port", "0"]),
    "report": Row(lambda s, p: ["--run", f"{p}/run"], "run/report.html", has_run=True),
    "compare": Row(
        lambda s, p: ["--run", str(s.run), "--run", str(s.run), "--out", f"{p}/c.json"], "c.json", small=True
    ),
    "settings": Row(lambda s, p: ["train"]),
    "doctor": Row(lambda s, p: []),
}
WRITERS = [verb for verb, row in ROWS.items() if row.writes]
READERS = [verb for verb, row in ROWS.items() if not row.writes and verb != "serve"]
