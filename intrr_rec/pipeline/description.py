"""What a pipeline is to do, from a YAML file: data, recipe, scheduler, and what each stage asks of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from intrr_rec.config import Section
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.stores.staging import require_store
from intrr_rec.io.stores.storage import Location, below, location
from intrr_rec.pipeline.described import read_described, seen_from

StageName = Literal["prepare", "embed", "index", "train", "evaluate", "export", "promote"]
Option = str | int | float | bool | list[str]


class Ask(Section):
    """What the jobs of a stage ask of the scheduler."""

    h: str = Field("cpu_small", description="named resource of a node")
    j: str = Field("1x1", description="NODESxRANKS; prepare is one process")
    max_retries: int = Field(0, ge=0, description="times the scheduler starts the job again after a failure")


class Embed(Section):
    """How item texts become vectors, where the pipeline makes them."""

    model: str | None = Field(
        None, description="folder (absolute) or hub name of a sentence-transformers model; all-MiniLM-L6-v2 if left out"
    )
    text_column: str = Field("text", description="column of the item table; an item without text there: its title")


class Daily(Section):
    """What makes a pipeline that of every day: logs are added, training goes on from the day before, the better model is served."""

    registry: Path | None = Field(None, description="registry that servers follow; `registry` below work if left out")
    rule: Path | None = Field(None, description="promotion rule (YAML)")
    settings: tuple[str, ...] = Field((), description="SECTION.KEY=VALUE over `settings`, from the second day on")
    servers: tuple[str, ...] = Field((), description="http://HOST:PORT of servers to reload, once a bundle is promoted")
    keep: int = Field(7, ge=2, description="run folders that stay, beside those of the bundles in the registry")

    @field_validator("servers")
    @classmethod
    def _are_http(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            if not re.match(r"https?://[^/\s@]+/?$", server):
                raise ValueError(f"{server}: is not the address of a server; write http://HOST:PORT")
        return servers


class Pipeline(Section):
    """A pipeline file. Paths are absolute or relative to it, and lie on storage that every node and this machine share; or URLs."""

    work: Path = Field(description="folder of all that is made: dataset, vectors, semantic_ids, run, bundle, jobs")
    records: Path | None = Field(
        None, description="local folder of jobs.json and the jobs' output: work, or FILE.jobs where work is a URL"
    )
    interactions: tuple[Path, ...] = Field(min_length=1, description="interaction logs")
    vectors: Path | None = Field(None, description="item vectors; or embed")
    embed: Embed | None = Field(None, description="make the vectors of item texts, `vectors` below work")
    items: Path | None = Field(None, description="item table")
    recipe: Path | None = Field(None, description="settings of every verb")
    settings: tuple[str, ...] = Field((), description="SECTION.KEY=VALUE over the recipe")
    rows: Literal["float32", "bfloat16", "int8"] = Field("float32", description="type of the bundle's rows")
    scheduler: str = Field("local_cwd", description="TorchX scheduler of all jobs")
    options: dict[str, Option] = Field({}, description="of the scheduler, as `torchx runopts` lists them")
    image: str | None = Field(None, description="container image, where the scheduler runs containers")
    env: dict[str, str] = Field({}, description="environment of all jobs")
    mounts: tuple[str, ...] = Field((), description="such as type=bind, src=/host, dst=/job")
    rdzv_port: int = Field(29500, ge=1, lt=65_536, description="port where ranks of several nodes meet")
    jobs: dict[StageName, Ask] = Field({}, description="by stage; train is retried three times if it is left out")

    daily: Daily | None = Field(None, description="run this pipeline every day; see docs/daily.md")

    @model_validator(mode="after")
    def _has_vectors(self) -> Pipeline:
        if (self.vectors is None) == (self.embed is None):
            raise ValueError("give either 'vectors', a place of item vectors, or 'embed', such as embed: {}")
        return self

    @field_validator("work", "interactions", "vectors", "items", "recipe", mode="before")
    @classmethod
    def _openable(cls, given: object) -> object:
        for place in given if isinstance(given, list) else [given]:
            if isinstance(place, str) and (url := url_of(place)):
                try:
                    require_store(url)
                except ConfigError as error:
                    raise ValueError(str(error)) from None
        return given

    @field_validator("env", mode="before")
    @classmethod
    def _text(cls, env: object) -> object:
        return {key: str(value) for key, value in env.items()} if isinstance(env, dict) else env

    def ask(self, stage: StageName) -> Ask:
        """What a stage asks."""
        return self.jobs.get(stage, Ask(max_retries=3) if stage == "train" else Ask())

    @property
    def registry(self) -> Location:
        """Where bundles are promoted, in a pipeline of every day."""
        asked = None if self.daily is None else self.daily.registry
        return self.place("registry") if asked is None else location(asked)

    def place(self, name: str) -> Location:
        """Where something that is made lies."""
        return below(location(self.work), name)


def load_pipeline(path: Path) -> Pipeline:
    """Read a pipeline file; its paths come out absolute.

    Raises:
        ConfigError: cannot be read, an unknown or missing key, or a value that does not fit.
    """
    pipeline = read_described(path, Pipeline, {"jobs": Ask, "embed": Embed, "daily": Daily})

    def seen(found: Path) -> Location:
        return seen_from(path, found)

    keys = ("work", "vectors", "items", "recipe", "records")
    named: dict[str, Any] = {key: seen(found) for key in keys if (found := getattr(pipeline, key))}
    if pipeline.records is None:
        named["records"] = (
            path.absolute().with_name(f"{path.stem}.jobs") if isinstance(named["work"], str) else named["work"]
        )
    if pipeline.daily is not None:
        inner = {key: seen(found) for key in ("registry", "rule") if (found := getattr(pipeline.daily, key))}
        named["daily"] = pipeline.daily.model_copy(update=inner)
    return pipeline.model_copy(update=named | {"interactions": tuple(map(seen, pipeline.interactions))})
