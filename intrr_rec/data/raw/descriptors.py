"""Datasets as data: a YAML file says where logs lie, what their columns are called, and how they are prepared.

`datasets/README.md` tells how to write one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from intrr_rec.config import PrepareConfig, Section, read_yaml, require_known
from intrr_rec.errors import ConfigError, DataError, instead
from intrr_rec.io.disk.places import url_fault

WILD = "*?["


class Download(Section):
    """A file of an archive, or the files of a pattern, that `intrr fetch` brings below `--data`."""

    url: str = Field(description="https://… or what fsspec reads (s3://, gs://, …), there with * and **")
    to: str | None = Field(
        None, description="name below --data; of a pattern, the folder; null: the last part of the URL"
    )
    checksum: str | None = Field(None, description="sha256:… or md5:… of the file; null: its makers publish none")
    tables: dict[str, str] = Field(
        {},
        description="Parquet files to make of it, below --data: name → log reader: an official format, or a plug-in's",
    )

    @property
    def name(self) -> str:
        """Of the file or folder below `--data`."""
        return self.to or self.url.rsplit("/", 1)[-1]

    @field_validator("checksum")
    @classmethod
    def _known(cls, checksum: str | None) -> str | None:
        if checksum is not None and checksum.partition(":")[0] not in ("sha256", "md5"):
            raise ValueError("a checksum begins with sha256: or md5:")
        return checksum

    @field_validator("tables")
    @classmethod
    def _formats(cls, tables: dict[str, str]) -> dict[str, str]:
        try:
            for name in tables.values():
                require_known("readers", name)
        except ConfigError as error:
            raise ValueError(f"format {error}") from None
        return tables


class Descriptor(Section):
    """A dataset: where its files are below `--data`, and what they are."""

    title: str
    download: tuple[Download, ...] = Field((), description="what `intrr fetch` brings")
    interactions: str | tuple[str, ...] = Field(
        description="files below --data, in order; a pattern stands for its files by name"
    )
    items: str | None = Field(None, description="item table below --data")
    users: str | None = Field(None, description="user table below --data, for features of users")
    vectors: str | None = Field(
        None, description="Parquet with item_id and embedding, for `python -m benchmarks.tables`"
    )
    about_vectors: str = Field("", description="what made the vectors, in words")
    prepare: dict[str, Any] = Field({}, description="settings of `intrr prepare`; words on the command line win")

    @field_validator("interactions", "items", "users", "vectors")
    @classmethod
    def _local(cls, names: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for name in (names,) if isinstance(names, str) else names or ():
            if fault := url_fault(name):
                raise ValueError(f"{fault}, or have `intrr fetch` bring it: a `download` names URLs")
        return names

    @field_validator("prepare")
    @classmethod
    def _settings(cls, prepare: dict[str, Any]) -> dict[str, Any]:
        if unknown := set(prepare) - set(PrepareConfig.model_fields):
            raise ValueError(f"unknown key '{min(unknown)}'{instead(min(unknown), PrepareConfig.model_fields)}")
        return prepare

    def settings(self, own: PrepareConfig) -> PrepareConfig:
        """`own` settings over this descriptor's.

        Raises:
            ConfigError: they do not go together.
        """
        given = {name: getattr(own, name) for name in own.model_fields_set}
        try:
            return PrepareConfig.model_validate(self.prepare | given)
        except ValidationError as error:
            raise ConfigError(f"{self.title}: prepare: {error.errors()[0]['msg']}") from None


@dataclass(frozen=True)
class RawTables:
    """The files of a descriptor, found."""

    interactions: tuple[Path, ...]
    items: Path | None
    users: Path | None = None


def load_descriptor(path: Path) -> Descriptor:
    """A dataset's descriptor.

    Raises:
        ConfigError: cannot be read, an unknown or missing key, or a value that does not fit.
    """
    tree: Mapping[str, Any] = read_yaml(path)
    try:
        return Descriptor.model_validate(tree)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{path}: '{key}' is missing") from None
        if first["type"] == "extra_forbidden":
            known: type[Section] = Download if first["loc"][0] == "download" else Descriptor
            raise ConfigError(
                f"{path}: unknown key '{key}'{instead(str(first['loc'][-1]), known.model_fields)}"
            ) from None
        raise ConfigError(f"{path}: '{key}': {first['msg'].removeprefix('Value error, ')}") from None


def find_tables(descriptor: Descriptor, path: Path, data: Path) -> RawTables:
    """The files that a descriptor (read from `path`) names below `data`; patterns stand for their files, sorted by name.

    Raises:
        DataError: one is not there.
    """
    names = descriptor.interactions
    logs = [found for name in ((names,) if isinstance(names, str) else names) for found in _files(name, path, data)]
    items = _files(descriptor.items, path, data)[0] if descriptor.items else None
    users = _files(descriptor.users, path, data)[0] if descriptor.users else None
    if missing := [file for file in (*logs, items, users) if file is not None and not file.exists()]:
        fetch = f"; `intrr fetch {path} --data {data}` brings it" if descriptor.download else ""
        raise DataError(f"{missing[0]}: no such file, and {path} names it{fetch}; or give its folder with --data")
    return RawTables(tuple(logs), items, users)


def _files(name: str, path: Path, data: Path) -> list[Path]:
    if not any(sign in name for sign in WILD):
        return [data / name]
    found = sorted(file for file in data.glob(name) if file.is_file())
    if not found:
        raise DataError(
            f"{path}: nothing below {data} is called {name}; correct the pattern or give its folder with --data"
        )
    return found
