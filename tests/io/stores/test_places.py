"""Places in a store: leases, artefacts published whole, causes of errors; an S3-compatible server on this machine answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from intrr_rec.errors import ArtefactError, ConfigError, PlaceError, UserError
from intrr_rec.io import artefact
from intrr_rec.io.stores import lease as leases
from intrr_rec.io.stores import scratch
from intrr_rec.io.stores.lease import Lease
from intrr_rec.io.stores.staging import copied, staged
from intrr_rec.io.stores.storage import Folder

pytestmark = pytest.mark.slow
URL = "s3://bucket/places"
KIND = "sample"


@pytest.fixture(autouse=True)
def place(bucket: pafs.FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(scratch.SCRATCH, str(tmp_path / "scratch"))
    bucket.delete_dir_contents("bucket")
    yield
    left = list((tmp_path / "scratch").rglob("*")) if (tmp_path / "scratch").exists() else []
    assert not left, "copies stay behind"


def make(text: str, url: str = URL) -> None:
    with staged() as places, artefact.writing(places.artefact(url), KIND, {}) as draft:
        (draft.path / "deep").mkdir()
        (draft.path / "deep" / "text").write_text(text)


def text_of(url: str = URL) -> str:
    return artefact.open_artefact(url, KIND, lambda opened: opened.read("deep/text").decode())


def test_an_artefact_is_published_and_replaced() -> None:
    make("one")
    assert text_of() == "one"
    before = Folder.at(URL).read("manifest.json")
    make("two")
    assert text_of() == "two"
    with copied(URL) as here:
        assert (here / "deep" / "text").read_text() == "two" and artefact.read(here, KIND)
    # who reads the version before goes on reading it; the one before that is gone
    assert Folder.at(URL).version(before).read("deep/text") == b"one"
    make("three")
    assert len(Folder.at(f"{URL}/versions").folders()) == 2
    assert not [name for name in Folder.at(URL).names() if name.startswith(leases.PREFIX)]


def test_what_fails_or_is_killed_in_between_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    make("one")
    put = Folder.put

    def fail(folder: Folder, name: str, path: Path) -> None:
        put(folder, name, path)
        raise PlaceError("gone")

    with monkeypatch.context() as patch, pytest.raises(PlaceError):
        patch.setattr(Folder, "put", fail)
        make("two")
    assert text_of() == "one"


def test_nothing_of_another_kind_is_replaced(bucket: pafs.FileSystem) -> None:
    with bucket.open_output_stream("bucket/theirs/notes.txt") as handle:
        handle.write(b"mine")
    with pytest.raises(ArtefactError, match="s3://bucket/theirs: exists and is not a 'sample' artefact"):
        make("one", "s3://bucket/theirs")
    with staged() as places, artefact.writing(places.artefact(URL), "other", {}) as draft:
        (draft.path / "text").write_text("x")
    with pytest.raises(ArtefactError, match=f"{URL}: exists and is not a 'sample' artefact"):
        make("one")


def test_a_part_of_an_artefact_is_found_by_its_local_name() -> None:
    make("one")
    with staged() as places:
        assert places.bring(f"{URL}/deep/text").read_text() == "one"
        assert (places.bring(f"{URL}/deep") / "text").read_text() == "one"


def test_of_two_jobs_the_second_is_refused() -> None:
    first = Lease(Folder.at(URL))
    with pytest.raises(ArtefactError, match=r"places: another job is writing there \(process \d+ on .*\); wait for it"):
        make("two")
    first.release()
    make("two")


def test_jobs_that_begin_together_never_both_go_on() -> None:
    for round_ in range(5):
        folder, won = Folder.at(f"s3://bucket/race-{round_}"), []
        go = threading.Barrier(4)

        def job(folder: Folder = folder, won: list[Lease] = won, go: threading.Barrier = go) -> None:
            go.wait()
            with suppress(ArtefactError):
                won.append(Lease(folder))

        threads = [threading.Thread(target=job) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= 1
        for held in won:
            held.release()


def foreign(**changes: object) -> str:
    """A lease that a job of another machine left."""
    said = {"host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "held": True} | changes
    Folder.at(URL).write(f"{leases.PREFIX}0", json.dumps(said).encode())
    return f"{leases.PREFIX}0"


def test_the_lease_of_a_dead_job_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    here = leases._me() | {"pid": child.pid, "started": leases._started(child.pid)}
    child.wait()
    foreign(**here)
    Lease(Folder.at(URL)).release()  # of this machine: at once
    foreign()
    Lease(Folder.at(URL), expires=2.0).release()  # of another: once it has not been renewed for so long


def test_the_lease_of_a_job_elsewhere_that_renews_it_holds() -> None:
    foreign()
    timer = threading.Timer(1.5, foreign)
    timer.start()
    with pytest.raises(ArtefactError, match="another job is writing there"):
        Lease(Folder.at(URL))
    timer.join()


def test_a_job_that_lost_its_lease_publishes_nothing() -> None:
    with pytest.raises(ArtefactError, match="another took its place; nothing was published"), staged() as places:
        with artefact.writing(places.artefact(URL), KIND, {}) as draft:
            (draft.path / "text").write_text("x")
        store = Folder.at(URL)
        for name in store.beside(leases.PREFIX):
            store.remove(name)
    assert not Folder.at(URL).has("manifest.json")


@pytest.mark.parametrize("url", ["nosuch://b/x", "http://host/x", "file:///tmp/x", "hdfs://name:1/x"])
def test_a_url_that_no_file_system_opens_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=f"^{url}"), staged() as places:
        places.artefact(url)


def test_errors_name_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    for work in (lambda: make("x", "s3://no-such-bucket/x"), lambda: text_of("s3://no-such-bucket/x")):
        with pytest.raises(UserError, match=r"s3://no-such-bucket/x: .*no such bucket; make it, or correct the URL"):
            work()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the store's host cannot be reached; check the network, and the endpoint"):
        make("x")


class _Forbidden(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET = do_HEAD = do_PUT

    def log_message(self, *words: object) -> None:
        pass


def test_refused_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Forbidden)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(UserError, match=r"the store refuses these credentials; .*AWS_ACCESS_KEY_ID"):
        make("x")
    server.shutdown()


def test_copies_of_a_killed_job_are_removed_by_the_next(tmp_path: Path) -> None:
    make("one")
    code = f"import os, signal\nfrom intrr_rec.io.stores.staging import staged\nwith staged() as p:\n print(p.bring('{URL}'), flush=True)\n os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert Path(killed.stdout.strip()).exists()
    with staged() as places:
        places.bring(URL)
        assert not Path(killed.stdout.strip()).exists()


def test_a_run_by_ranks_of_several_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{URL}: ranks on several nodes share no copy"), staged() as places:
        places.run(URL, write=True)
