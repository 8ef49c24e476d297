"""Descriptors as shipped load; small files in the makers' formats come over loopback HTTP and become datasets."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import yaml

from intrr_rec.cli.logs import given_logs
from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.raw.descriptors import Descriptor, load_descriptor
from intrr_rec.data.raw.download import fetch
from intrr_rec.errors import ConfigError, DataError
from tests.data.prepare.test_prepare import sequences

SHIPPED = sorted((Path(__file__).parents[3] / "datasets").glob("*.yaml"))


class Archive(BaseHTTPRequestHandler):
    """Files from memory, with ranges; a transfer named in `cut` is broken off after that many bytes, once."""

    def __init__(self, files: dict[str, bytes], cut: dict[str, int], asked: list[str], *args: Any) -> None:
        self.files, self.cut, self.asked = files, cut, asked
        super().__init__(*args)

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : self.cut.pop(self.path, len(body))])

    def log_message(self, *args: Any) -> None:
        pass


class Server:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.asked: list[str] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Archive, self.files, self.cut, self.asked))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()


def zipped(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            encoding = "latin-1" if name.endswith("dat") else "utf-8"
            archive.writestr(
                name.replace("__", "/").replace("_dat", ".dat").replace("_csv", ".csv"), text.encode(encoding)
            )
    return packed.getvalue()


REVIEW = {
    "helpful": [0, 0],
    "reviewText": 'Smells good, "really".',
    "overall": 5.0,
    "summary": "ok",
    "reviewTime": "01 30, 2014",
}
REVIEWS = [("A1", f"B00{i}", 1390000000 + 86400 * i) for i in range(5)] + [
    ("A2", f"B00{i}", 1391000000) for i in range(5)
]
PRODUCTS = [
    {"asin": "B000", "title": 'Mum\'s "best" soap é', "brand": "Acme", "categories": [["Beauty", "Bath"], ["Gifts"]]},
    {"asin": "B001", "categories": [["Beauty"]], "related": {"also_bought": ["B000"]}, "imUrl": "http://x/y.jpg"},
    {"asin": "B009", "title": "nobody's", "salesRank": {"Beauty": 3}},
]
AMAZON = {
    "reviews": gzip.compress(
        "".join(
            json.dumps(REVIEW | {"reviewerID": user, "asin": item, "unixReviewTime": time}) + "\n"
            for user, item, time in REVIEWS
        ).encode()
    ),
    "meta": gzip.compress("".join(f"{product!r}\n" for product in PRODUCTS).encode()),
}


def described(server: Server, tmp_path: Path, name: str, files: dict[str, bytes]) -> Path:
    """A shipped descriptor with its downloads served from here, and their checksums where it has some."""
    tree = yaml.safe_load((SHIPPED[0].parent / f"{name}.yaml").read_text())
    for wanted in tree["download"]:
        base = wanted["url"].rsplit("/", 1)[-1]
        body = next(body for key, body in files.items() if base.startswith(key))
        server.files[f"/{base}"] = body
        wanted["url"] = server.url(base)
        if "checksum" in wanted:
            wanted["checksum"] = f"md5:{hashlib.md5(body).hexdigest()}"
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def prepared(path: Path, tmp_path: Path, *words: str) -> Dataset:
    fetch(load_descriptor(path), tmp_path / "data")
    logs = given_logs([str(path), "prepare.k_core=1", *words], [], None, tmp_path / "data", None)
    prepare_dataset(logs.interactions, logs.items, tmp_path / "ds", logs.settings)
    return Dataset.open(tmp_path / "ds")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_descriptors_load(path: Path) -> None:
    descriptor = load_descriptor(path)
    assert descriptor.title and descriptor.interactions


def test_amazon_2014_in_its_official_format(server: Server, tmp_path: Path) -> None:
    dataset = prepared(described(server, tmp_path, "amazon_beauty", AMAZON), tmp_path)
    expected: dict[str, list[tuple[str, int]]] = {"A1": [], "A2": []}
    for user, item, time in REVIEWS:
        expected[user].append((item, time))
    assert sequences(dataset) == expected
    items = pq.read_table(tmp_path / "ds" / "items.parquet").to_pylist()
    assert items[0]["title"] == 'Mum\'s "best" soap é'
    assert [row["text"] for row in items] == [
        'Title: Mum\'s "best" soap é; Brand: Acme; Categories: Beauty > Bath | Gifts',
        "Title: ; Brand: ; Categories: Beauty",
        None,
        None,
        None,
    ]


def test_movielens_1m_and_20m_in_their_official_formats(server: Server, tmp_path: Path) -> None:
    rows = [(user, movie, 1 + movie % 5, 978300000 + movie) for user in (1, 2) for movie in (10, 11, 13, 14, 19)]
    dat = "".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in rows)
    movies = "".join(f"{m}::Café {m}, The (1995)::Comedy|Drama\n" for m in (10, 11, 13, 14, 19))
    files = {"ml-1m": zipped(**{"ml-1m__ratings_dat": dat, "ml-1m__movies_dat": movies})}
    dataset = prepared(described(server, tmp_path, "movielens_1m", files), tmp_path)
    assert sequences(dataset) == {u: [(m, t) for v, m, _, t in rows if v == u] for u in (1, 2)}
    assert pq.read_table(tmp_path / "ds" / "items.parquet")["text"][0].as_py() == "Café 10, The (1995); Comedy|Drama"

    table = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},{r}.0,{t}\n" for u, m, r, t in rows)
    named = 'movieId,title,genres\n10,"Café 10, The (1995)",Comedy|Drama\n'
    files = {"ml-20m": zipped(**{"ml-20m__ratings_csv": table, "ml-20m__movies_csv": named})}
    dataset = prepared(described(server, tmp_path, "movielens_20m", files), tmp_path)
    assert sequences(dataset) == {u: [(m, t) for v, m, r, t in rows if v == u and r >= 4] for u in (1, 2)}


def test_a_download_that_was_cut_off_goes_on_and_a_finished_one_is_not_asked_for_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intrr_rec.data.raw.download.BLOCK", 16)
    path = described(server, tmp_path, "amazon_beauty", AMAZON)
    name = "/reviews_Beauty_5.json.gz"
    server.cut[name] = 100
    fetch(load_descriptor(path), tmp_path / "data")
    assert (tmp_path / "data" / name[1:]).read_bytes() == AMAZON["reviews"]
    assert server.asked[:2] == [name, f"{name} bytes=96-"]
    before = len(server.asked)
    fetch(load_descriptor(path), tmp_path / "data")
    assert len(server.asked) == before
    # Killed after the last byte, before the file took its name.
    whole = tmp_path / "data" / name[1:]
    whole.rename(whole.with_name(f".{whole.name}.partial"))
    fetch(load_descriptor(path), tmp_path / "data")
    assert whole.read_bytes() == AMAZON["reviews"] and server.asked[before:] == [
        f"{name} bytes={len(AMAZON['reviews'])}-"
    ]
    assert not list((tmp_path / "data").glob(".*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"checksum": "md5:00"}, r"what came has md5 \w+, not 00"),
        ({"url": "/nowhere"}, "the server answers 404"),
        ({"url": "quux://a/b"}, "quux://a/b: cannot be read"),
        ({"url": "file:///nowhere/*.x"}, "a pattern needs `to`"),
        ({"tables": {"t.parquet": "movielens_1m_movies"}}, r"reviews_Beauty_5.json.gz: cannot be read"),
        ({"tables": {"t.parquet": "amazon_2014_metadata"}}, r"line 1 is no product of the Amazon 2014 metadata"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_leaves_no_half(
    server: Server, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    files = AMAZON | {"reviews": gzip.compress(b"reviews\n")}
    path = described(server, tmp_path, "amazon_beauty", files)
    tree = yaml.safe_load(path.read_text())
    tree["download"] = [tree["download"][0] | change]
    if tree["download"][0]["url"] == "/nowhere":
        tree["download"][0]["url"] = server.url("nowhere")
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(DataError, match=says):
        fetch(load_descriptor(path), tmp_path / "data")
    left = {file.name for file in (tmp_path / "data").rglob("*")}
    assert left <= {"reviews_Beauty_5.json.gz"}


def test_a_pattern_brings_its_partitions_and_they_count_by_name(tmp_path: Path) -> None:
    for day in ("02", "01"):
        folder = tmp_path / "store" / f"day={day}"
        folder.mkdir(parents=True)
        (folder / "x.csv").write_text(f"user_id,item_id,timestamp\nu,d{day},7\nu,e{day},7\n")
    tree = {"title": "t", "interactions": "logs/**/*.csv", "prepare": {"k_core": 1}}
    tree["download"] = [{"url": f"file://{tmp_path}/store/day=*/*.csv", "to": "logs"}]
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(tree))
    dataset = prepared(tmp_path / "d.yaml", tmp_path)
    assert sequences(dataset) == {"u": [("d01", 7), ("e01", 7), ("d02", 7), ("e02", 7)]}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"title": "t"}, "'interactions' is missing"),
        ({"title": "t", "interaction": "x"}, "unknown key 'interaction'; did you mean 'interactions'"),
        (
            {"title": "t", "interactions": "x", "prepare": {"k_cores": 2}},
            "unknown key 'k_cores'; did you mean 'k_core'",
        ),
        (
            {"title": "t", "interactions": "x", "download": [{"url": "u", "tables": {"a": "b"}}]},
            "format 'b' is none of",
        ),
        ({"title": "t", "interactions": "x", "download": [{"url": "u", "checksum": "crc:1"}]}, "sha256: or md5:"),
        ({"title": "t", "interactions": "s3://b/logs/*.parquet"}, "'interactions': s3://b/logs/.*`intrr fetch`"),
        ({"title": "t", "interactions": "x", "items": "https://a/b.csv"}, "'items': https://a/b.csv: only a local"),
    ],
)
def test_a_wrong_descriptor_is_named(tmp_path: Path, tree: dict[str, Any], says: str) -> None:
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=says):
        load_descriptor(tmp_path / "d.yaml")


def test_words_win_over_the_recipe_and_it_over_the_descriptor(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("")
    tree = {"title": "t", "interactions": "x.csv", "prepare": {"k_core": 2, "user_column": "u", "min_sequence": 4}}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "r.yaml").write_text("prepare: {k_core: 3, min_sequence: 5}\n")
    words = [str(tmp_path / "d.yaml"), "prepare.min_sequence=6"]
    settings = given_logs(words, [], None, tmp_path, tmp_path / "r.yaml").settings
    assert (settings.user_column, settings.k_core, settings.min_sequence) == ("u", 3, 6)
    (tmp_path / "d.yaml").write_text("title: t\ninteractions: nope.csv\n")
    with pytest.raises(
        DataError, match=r"nope\.csv: no such file, and .*d\.yaml names it; or give its folder with --data"
    ):
        given_logs(words[:1], [], None, tmp_path, None)


def test_words_are_judged_together_with_what_the_descriptor_says(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user_id,item_id,timestamp\n1,1,1\n")
    prepare = "{event_column: kind, event_weights: {buy: 4, view: 1}, split: global_time}"
    (tmp_path / "d.yaml").write_text(f"{{title: t, interactions: x.csv, prepare: {prepare}}}")

    def given(*words: str) -> PrepareConfig:
        return given_logs([str(tmp_path / "d.yaml"), *words], [], None, tmp_path, None).settings

    found = given("prepare.split_at=[2024-01-01, 2024-02-01]", "prepare.min_weight=4", "prepare.event_weights={buy: 4}")
    assert (found.split_at, found.min_weight, found.event_weights) == ((1704067200, 1706745600), 4, {"buy": 4})
    assert given().event_weights == {"buy": 4, "view": 1}
    with pytest.raises(
        ConfigError, match=r"d\.yaml or command line: 'prepare': split_at: validation must begin before the test"
    ):
        given("prepare.split_at=[5, 5]")
    with pytest.raises(ConfigError, match="'soon' is neither ISO 8601 nor whole seconds since 1970"):
        given("prepare.split_at=[soon, 5]")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{name}", "has no column 'name'; it has title"),
        ("{title", "cannot be read"),
        ("title", "names no column"),
    ],
)
def test_a_wrong_text_template_is_named(tmp_path: Path, template: str, says: str) -> None:
    (tmp_path / "x.csv").write_text("user_id,item_id,timestamp\n1,1,1\n1,2,2\n1,3,3\n")
    (tmp_path / "i.csv").write_text("item_id,title\n1,a\n")
    logs = given_logs(
        ["prepare.k_core=1", f"prepare.text_template={template!r}"], [tmp_path / "x.csv"], None, tmp_path, None
    )
    with pytest.raises(DataError, match=says):
        prepare_dataset(logs.interactions, tmp_path / "i.csv", tmp_path / "ds", logs.settings)


def downloads(tmp_path: Path, **wanted: Any) -> Descriptor:
    source = tmp_path / "store" / "log.csv"
    source.parent.mkdir(exist_ok=True)
    source.write_text("user_id,item_id\n1,2\n")
    return Descriptor.model_validate(
        {"title": "hostile", "interactions": "log.csv", "download": [{"url": f"file://{source}"} | wanted]}
    )


@pytest.mark.parametrize(
    "wanted",
    [
        {"to": "../escaped"},
        {"to": "deep/../../escaped"},
        {"to": "{tmp}/escaped"},
        {"to": "link/escaped"},
        {"to": "."},
        {"to": "nul\0byte"},
        {"url": "https://localhost/.."},
        {"to": "log.csv", "tables": {"../escaped": "movielens_1m_movies"}},
        {"to": "log.csv", "tables": {"{tmp}/escaped": "movielens_1m_movies"}},
        {"url": "hostile://bucket/*", "to": "parts"},
    ],
)
def test_nothing_is_written_outside_the_data_folder(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """A store's keys are any text: `../..` in one of them leads out of the folder just as in a descriptor."""
    data = tmp_path / "deep" / "data"
    data.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (data / "link").symlink_to(tmp_path / "elsewhere")

    class HostileStore(fsspec.AbstractFileSystem):
        protocol = "hostile"

        def glob(self, path: str, *_: Any, **__: Any) -> list[str]:
            return ["bucket/good.csv", "bucket/../../../escaped"]

        def get_file(self, remote: str, local: str, **_: Any) -> None:
            Path(local).write_text("hostile")

    fsspec.register_implementation("hostile", HostileStore, clobber=True)
    text = json.dumps(wanted).replace("{tmp}", str(tmp_path))
    descriptor = downloads(tmp_path, **json.loads(text))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="leads out of"):
        fetch(descriptor, data)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert fetch(downloads(tmp_path), tmp_path / "data") == [tmp_path / "data" / "log.csv"]
    assert (tmp_path / "disk" / "log.csv").read_text().startswith("user_id")
