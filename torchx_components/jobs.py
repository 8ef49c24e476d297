"""The verbs as TorchX components: `torchx run intrr.train --help` lists what one takes.

A component names what its verb reads and writes; words after `--` are the verb's settings, SECTION.KEY=VALUE. What ranks
divide among themselves (index, train, evaluate) is started by torchrun on every node, the rest by `python -m intrr_rec`.
"""

# Annotations must stay objects: TorchX builds a parser of them, so no `from __future__ import annotations` here.

from dataclasses import dataclass

from torchx import specs
from torchx.components import dist

IMAGE = "intrr_rec:latest"
PORT = 29500


def prepare(
    *settings: str,
    interactions: list[str],
    out: str,
    items: str | None = None,
    config: str | None = None,
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 0,
) -> specs.AppDef:
    """Interaction logs → dataset.

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        interactions: files or folders of logs, with commas between them
        out: dataset to write
        items: item table
        config: recipe (YAML)
        h: named resource
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
    """
    words = [word for path in interactions for word in ("--interactions", path)]
    words += _given(items=items, out=out, config=config)
    return _Job("prepare", [*words, *settings], h, image, env, mounts, metadata, max_retries).alone()


def embed(
    *,
    dataset: str,
    out: str,
    model: str | None = None,
    text_column: str = "text",
    batch: int = 16,
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 3,
) -> specs.AppDef:
    """Item texts → vectors; goes on where it stopped.

    Args:
        dataset: dataset artefact
        out: vectors to write
        model: sentence-transformers folder or hub name
        text_column: column of the item table
        batch: texts encoded together
        h: named resource
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
    """
    words = _given(dataset=dataset, out=out, model=model, text_column=text_column, batch=str(batch))
    return _Job("embed", words, h, image, env, mounts, metadata, max_retries).alone()


def index(
    *settings: str,
    dataset: str,
    vectors: str,
    out: str,
    extend: str | None = None,
    config: str | None = None,
    j: str = "1x1",
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 0,
    rdzv_port: int = PORT,
) -> specs.AppDef:
    """Item vectors → Semantic IDs (Stage 1).

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        dataset: dataset artefact
        vectors: item vectors
        out: Semantic IDs to write, on storage that all nodes share
        extend: version of Semantic IDs to extend
        config: recipe (YAML)
        j: NODESxRANKS, ranks of each node
        h: named resource of a node
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
        rdzv_port: port of the first node where ranks of several nodes meet
    """
    words = _given(dataset=dataset, vectors=vectors, out=out, extend=extend, config=config)
    return _Job("index", [*words, *settings], h, image, env, mounts, metadata, max_retries).ranks(j, 0, rdzv_port)


def train(
    *settings: str,
    dataset: str,
    semantic_ids: str,
    out: str,
    vectors: str | None = None,
    config: str | None = None,
    j: str = "1x1",
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 3,
    max_restarts: int = 0,
    rdzv_port: int = PORT,
) -> specs.AppDef:
    """Train (Stage 2); started again, it resumes from the newest checkpoint in `out`.

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        dataset: dataset artefact
        semantic_ids: Semantic IDs of that dataset
        out: run folder, on storage that all nodes share
        vectors: item vectors, for model.content
        config: recipe (YAML)
        j: NODESxRANKS, ranks of each node
        h: named resource of a node
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
        max_restarts: times torchrun starts the ranks again in place before that
        rdzv_port: port of the first node where ranks of several nodes meet
    """
    words = _given(dataset=dataset, semantic_ids=semantic_ids, out=out, vectors=vectors, config=config)
    job = _Job("train", [*words, *settings], h, image, env, mounts, metadata, max_retries)
    return job.ranks(j, max_restarts, rdzv_port)


def evaluate(
    *settings: str,
    run: str,
    j: str = "1x1",
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 0,
    rdzv_port: int = PORT,
) -> specs.AppDef:
    """Metrics of a run's best checkpoint on the test users.

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        run: run folder, on storage that all nodes share
        j: NODESxRANKS, ranks of each node
        h: named resource of a node
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
        rdzv_port: port of the first node where ranks of several nodes meet
    """
    job = _Job("evaluate", [*_given(run=run), *settings], h, image, env, mounts, metadata, max_retries)
    return job.ranks(j, 0, rdzv_port)


def _given(**options: str | None) -> list[str]:
    """Words for the options that have a value; the verb's own default stands for the others."""
    return [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", value)]


@dataclass(frozen=True)
class _Job:
    """A verb with its words, and where it runs; the fields are those of the components."""

    verb: str
    words: list[str]
    h: str
    image: str
    env: dict[str, str] | None
    mounts: list[str] | None
    metadata: dict[str, str] | None
    max_retries: int

    def alone(self) -> specs.AppDef:
        """One process."""
        role = specs.Role(
            name=self.verb,
            image=self.image,
            entrypoint="python",
            args=["-m", "intrr_rec", self.verb, *self.words],
            env=dict(self.env or {}),
            resource=specs.resource(h=self.h),
            mounts=specs.parse_mounts(self.mounts or []),
            max_retries=self.max_retries,
        )
        return specs.AppDef(self.verb, [role], dict(self.metadata or {}))

    def ranks(self, j: str, max_restarts: int, rdzv_port: int) -> specs.AppDef:
        """Nodes times ranks, by torchrun; ranks of several nodes meet at the first one."""
        cores = specs.resource(h=self.h).cpu
        threads = max(1, cores // dist.parse_nnodes(j)[2])
        defaults = {"OMP_NUM_THREADS": str(threads), "PET_MAX_RESTARTS": str(max_restarts)}
        app = dist.ddp(
            self.verb,
            *self.words,
            m="intrr_rec",
            name=self.verb,
            h=self.h,
            j=j,
            image=self.image,
            env=defaults | (self.env or {}),
            mounts=self.mounts,
            metadata=dict(self.metadata or {}),
            max_retries=self.max_retries,
            rdzv_port=rdzv_port,
        )
        app.roles[0].name = self.verb
        return app
