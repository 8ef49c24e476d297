"""What a pipeline is to do, from a YAML file: data, recipe, scheduler, and what each stage asks of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from intrr_rec.config import Section
from intrr_rec.errors import ConfigError, instead
from intrr_rec.io.places import url_of
from intrr_rec.io.storage import Location, below, location
from intrr_rec.io.stores.staging import require_store
from intrr_rec.io.yaml_text import parse_yaml, read_text

StageName = Literal["prepare", "index", "train", "evaluate", "export"]
Option = str | int | float | bool | list[str]


class Ask(Section):
    """What the jobs of a stage ask of the scheduler."""

    h: str = Field("cpu_small", description="named resource of a node")
    j: str = Field("1x1", description="NODESxRANKS; prepare is one process")
    max_retries: int = Field(0, ge=0, description="times the scheduler starts the job again after a failure")


class Pipeline(Section):
    """A pipeline file. Paths are absolute or relative to it, and lie on storage that every node and this machine share; or URLs."""

    work: Path = Field(description="folder of all that is made: dataset, semantic_ids, run, bundle, jobs")
    records: Path | None = Field(
        None, description="local folder of jobs.json and the jobs' output: work, or FILE.jobs where work is a URL"
    )
    interactions: tuple[Path, ...] = Field(min_length=1, description="interaction logs")
    vectors: Path = Field(description="item vectors")
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

    def place(self, name: str) -> Location:
        """Where something that is made lies."""
        return below(location(self.work), name)


def load_pipeline(path: Path) -> Pipeline:
    """Read a pipeline file; its paths come out absolute.

    Raises:
        ConfigError: cannot be read, an unknown or missing key, or a value that does not fit.
    """
    try:
        tree = parse_yaml(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    try:
        pipeline = Pipeline.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, path) for item in error.errors())) from None
    at = path.absolute().parent

    def seen(found: Path) -> Location:
        return url_of(found) or at / found

    keys = ("work", "vectors", "items", "recipe", "records")
    named: dict[str, Any] = {key: seen(found) for key in keys if (found := getattr(pipeline, key))}
    if pipeline.records is None:
        named["records"] = at / f"{path.stem}.jobs" if isinstance(named["work"], str) else named["work"]
    return pipeline.model_copy(update=named | {"interactions": tuple(map(seen, pipeline.interactions))})


def _explain(item: Any, path: Path) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = Ask if item["loc"][0] == "jobs" else Pipeline
        return f"{path}: unknown key '{where}'{instead(str(item['loc'][-1]), known.model_fields)}"
    return f"{path}: '{where}': {item['msg'].removeprefix('Value error, ')}"
