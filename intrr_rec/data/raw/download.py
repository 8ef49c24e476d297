"""`intrr fetch`: brings the files that a descriptor names, checks them, and makes tables of official formats.

A download that was cut off goes on where it stopped; a file takes its name only when it is whole and its checksum right.
A descriptor may come from a stranger: nothing that it or a store names is written outside the data folder.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import requests

from intrr_rec.data.raw.descriptors import WILD, Descriptor, Download
from intrr_rec.data.raw.reader import make_reader
from intrr_rec.errors import DataError
from intrr_rec.io.disk.atomic import take_name
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.other_stores import other_store, require_no_wrapper

log = logging.getLogger(__name__)
BLOCK = 1 << 16  # what a broken connection may lose
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 5


def fetch(descriptor: Descriptor, data: Path) -> list[Path]:
    """Bring what is not there yet below `data`; returns all files of the descriptor's downloads and their tables.

    Raises:
        DataError: a name that leads out of `data`, a URL that cannot be read, a wrong checksum, a file that is not of its
            official format.
    """
    made = []
    for wanted in descriptor.download:  # before anything is written
        with _said(wanted.url):
            require_no_wrapper(wanted.url)
        for name in (wanted.name, *wanted.tables):
            _inside(data, name, wanted.url)
    for wanted in descriptor.download:
        files = _copy_pattern(wanted, data) if _is_pattern(wanted.url) else [_bring(wanted, data, wanted.name)]
        made += files
        for name, format_ in wanted.tables.items():
            table = _inside(data, name, wanted.url)
            if not table.exists() or table.stat().st_mtime < files[0].stat().st_mtime:
                _convert(format_, files[0], table)
            made.append(table)
    return made


def _inside(data: Path, name: str, url: str) -> Path:
    """The path of `name` below `data`.

    Raises:
        DataError: it leads out of the folder: by `..`, as an absolute path, or through a symbolic link.
    """
    root = data.resolve()
    path = data / name
    for each in (path, _partial(path)):
        found = each.resolve() if "\0" not in name else root
        if found == root or not found.is_relative_to(root):
            raise DataError(f"{url}: {name!r} leads out of {data}, and nothing is written there; fix `to` or the names")
    return path


def _partial(target: Path) -> Path:
    """Where a file is put together before it takes its name."""
    return target.with_name(f".{target.name}.partial") if target.name else target


def _bring(wanted: Download, data: Path, name: str) -> Path:
    target = _inside(data, name, wanted.url)
    if target.exists():
        _check(wanted, target, f"{target}: is there already, and")
        log.info("%s: is there already", target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    if wanted.url.startswith(("http://", "https://")):
        _resume(wanted.url, partial)
    else:
        _copy(wanted.url, partial)
    try:
        _check(wanted, partial, f"{wanted.url}: what came")
    except DataError:
        partial.unlink()
        raise
    take_name(partial, target)
    log.info("%s: %d bytes from %s", target, target.stat().st_size, wanted.url)
    return target


def _resume(url: str, partial: Path) -> None:
    """Append what `partial` lacks; a server that cannot send a part sends the whole."""
    for attempt in range(ATTEMPTS):
        have = partial.stat().st_size if partial.exists() else 0
        try:
            # Compressed on the way, a part would be one of other bytes.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                    if total == str(have):
                        return
                    partial.unlink()
                    continue
                if not answer.ok:
                    raise DataError(f"{url}: the server answers {answer.status_code} {answer.reason}; correct the URL")
                goes_on = answer.status_code == requests.codes.partial_content
                expected = answer.headers.get("Content-Length")
                with open(partial, "ab" if goes_on else "wb") as handle:
                    start = handle.tell()
                    for block in answer.iter_content(BLOCK):
                        handle.write(block)
                    if expected is None or str(handle.tell() - start) == expected.strip():
                        return
        except requests.RequestException as error:
            reason = str(error)
        else:
            reason = "the connection closed early"
        log.warning("%s: %s; attempt %d of %d", url, reason, attempt + 1, ATTEMPTS)
    raise DataError(f"{url}: cannot be downloaded ({reason}); what came is kept, the same command goes on")


def _copy(url: str, target: Path) -> None:
    with _said(url):
        files, path = other_store(url)
        try:
            files.get_file(path, str(target))
        except OSError as error:
            target.unlink(missing_ok=True)  # a copy cannot go on where it ended
            error.filename = error.filename2 = str(target)  # a copy names its source, also where its target is full
            not_the_input(error)
            raise


def _copy_pattern(wanted: Download, data: Path) -> list[Path]:
    """The files of a pattern, below one folder by their paths from the first wildcard on."""
    if wanted.to is None or wanted.tables or wanted.checksum:
        raise DataError(f"{wanted.url}: a pattern needs `to`, a folder below --data, and takes no checksum or tables")
    with _said(wanted.url):
        files, path = other_store(wanted.url)
        found = sorted(files.glob(path))
        fixed = path[: min(path.index(sign) for sign in WILD if sign in path)].rpartition("/")[0]
    if not found:
        raise DataError(f"{wanted.url}: names no files; correct the pattern")
    scheme = wanted.url.partition("://")[0]
    names = [name[len(fixed) :].lstrip("/") for name in found]
    for full, name in zip(found, names, strict=True):
        _inside(data, f"{wanted.to}/{name}", f"{scheme}://{full}")
    return [
        _bring(Download(url=f"{scheme}://{full}"), data, f"{wanted.to}/{name}")
        for full, name in zip(found, names, strict=True)
    ]


class _said:
    """Turn what a file system complains of into one line."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ImportError, ValueError)):
            raise DataError(
                f"{self.url}: cannot be read ({error}); correct the URL, or install what fsspec asks for"
            ) from None


def _check(wanted: Download, file: Path, who: str) -> None:
    if wanted.checksum is None:
        return
    kind, _, expected = wanted.checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(file, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{who} has {kind} {digest.hexdigest()}, not {expected}; remove it and fetch again, or correct the checksum"
        )


def _convert(format_: str, source: Path, table: Path) -> None:
    staging = _partial(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    reader = make_reader(format_)
    try:
        with pq.ParquetWriter(staging, reader.schema, compression="zstd") as writer:
            for batch in reader.batches(source):
                writer.write_batch(batch)
        take_name(staging, table)
    finally:
        staging.unlink(missing_ok=True)
    log.info("%s: made from %s", table, source)


def _is_pattern(url: str) -> bool:
    return not url.startswith(("http://", "https://")) and any(sign in url for sign in WILD)
