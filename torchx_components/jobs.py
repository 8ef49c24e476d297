"""The verbs as TorchX components: `torchx run intrr.train --help` lists what one takes.

A component names what its verb reads and writes; words after `--` are the verb's settings, SECTION.KEY=VALUE. What ranks
divide among themselves (all but prepare, embed, promote and serve) is started by torchrun on every node, the rest by `python -m intrr_rec`.
"""

# Annotations must stay objects: TorchX builds a parser of them, so no `from __future__ import annotations` here.

from torchx import specs

from torchx_components.launch import IMAGE, PORT, Job, given


def prepare(
    *settings: str,
    interactions: list[str],
    out: str,
    items: str | None = None,
    engine: str = "duckdb",
    master: str | None = None,
    append: bool = False,
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
        engine: duckdb or spark
        master: Spark master, such as spark://host:7077; left out, Spark runs within the job
        append: add the logs to the dataset at out
        config: recipe (YAML)
        h: named resource
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
    """
    words = [word for path in interactions for word in ("--interactions", path)]
    words += given(items=items, out=out, engine=engine, master=master, config=config)
    words += ["--append"] if append else []
    return Job("prepare", [*words, *settings], h, image, env, mounts, metadata, max_retries).alone()


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
    words = given(dataset=dataset, out=out, model=model, text_column=text_column, batch=str(batch))
    return Job("embed", words, h, image, env, mounts, metadata, max_retries).alone()


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
    words = given(dataset=dataset, vectors=vectors, out=out, extend=extend, config=config)
    return Job("index", [*words, *settings], h, image, env, mounts, metadata, max_retries).ranks(j, 0, rdzv_port)


def train(
    *settings: str,
    dataset: str,
    semantic_ids: str,
    out: str,
    vectors: str | None = None,
    init_from: str | None = None,
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
        init_from: run to start from, such as yesterday's; the catalogue may have grown since
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
    words = given(dataset=dataset, semantic_ids=semantic_ids, out=out, vectors=vectors)
    words += given(init_from=init_from, config=config)
    job = Job("train", [*words, *settings], h, image, env, mounts, metadata, max_retries)
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
    job = Job("evaluate", [*given(run=run), *settings], h, image, env, mounts, metadata, max_retries)
    return job.ranks(j, 0, rdzv_port)


def export(
    *,
    run: str,
    out: str,
    rows: str = "float32",
    j: str = "1x1",
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 0,
    rdzv_port: int = PORT,
) -> specs.AppDef:
    """The bundle of a run's best checkpoint, for recommending and serving.

    Args:
        run: run folder, on storage that all nodes share
        out: bundle to write
        rows: float32, bfloat16 or int8
        j: NODESxRANKS, ranks of each node
        h: named resource of a node
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
        rdzv_port: port of the first node where ranks of several nodes meet
    """
    words = [run, *given(out=out, rows=rows)]
    return Job("export", words, h, image, env, mounts, metadata, max_retries).ranks(j, 0, rdzv_port)


def recommend(
    *settings: str,
    bundle: str,
    out: str,
    dataset: str | None = None,
    events: str | None = None,
    held_out: int = 0,
    k: int = 20,
    beam: int | None = None,
    exclude_seen: bool = False,
    deny: str | None = None,
    allow: str | None = None,
    where: list[str] | None = None,
    j: str = "1x1",
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 3,
    rdzv_port: int = PORT,
) -> specs.AppDef:
    """Ranked items for every user of a dataset or of an event log; goes on where it was killed.

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        bundle: what intrr.export wrote
        out: Parquet folder to write, on storage that all nodes share
        dataset: its users are recommended to
        events: or those of this Parquet of events
        held_out: last events of the dataset's users to leave out
        k: items a user
        beam: W; left out, what the run was evaluated with
        exclude_seen: nothing of the user's own history
        deny: text file of item ids nobody gets
        allow: text file of the item ids that may be had
        where: COLUMN=VALUE of the items, with commas between them
        j: NODESxRANKS, ranks of each node
        h: named resource of a node
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
        rdzv_port: port of the first node where ranks of several nodes meet
    """
    words = given(
        bundle=bundle, out=out, dataset=dataset, events=events, held_out=str(held_out), beam=str(beam) if beam else None
    )
    words += ["-k", str(k), *given(deny=deny, allow=allow), *(["--exclude-seen"] if exclude_seen else [])]
    words += [word for clause in where or [] for word in ("--where", clause)]
    return Job("recommend", [*words, *settings], h, image, env, mounts, metadata, max_retries).ranks(j, 0, rdzv_port)


def promote(
    *,
    bundle: str,
    over: str,
    on: str,
    rule: str | None = None,
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 0,
) -> specs.AppDef:
    """Judge a bundle against the one that is served, and serve it if the rule holds.

    Args:
        bundle: what intrr.export wrote
        over: registry, on storage that servers share
        on: dataset whose test users both rank
        rule: rule (YAML)
        h: named resource
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
    """
    words = [bundle, *given(over=over, on=on, rule=rule)]
    return Job("promote", words, h, image, env, mounts, metadata, max_retries).alone()


def serve(
    *settings: str,
    bundle: str,
    host: str = "0.0.0.0",
    port: int = 8765,
    withdrawn: str | None = None,
    config: str | None = None,
    h: str = "cpu_small",
    image: str = IMAGE,
    env: dict[str, str] | None = None,
    mounts: list[str] | None = None,
    metadata: dict[str, str] | None = None,
    max_retries: int = 3,
) -> specs.AppDef:
    """Answer requests from a bundle, until cancelled.

    Args:
        settings: SECTION.KEY=VALUE, after a `--`
        bundle: what intrr.export wrote
        host: address to bind; others than loopback need a token in INTRR_TOKEN, in the job's environment
        port: port to bind
        withdrawn: text file of item ids nobody gets; read again when it changes
        config: recipe (YAML)
        h: named resource
        image: container image, where the scheduler runs containers
        env: environment variables, as A=1,B=2
        mounts: as type=bind,src=/host,dst=/job; or type=volume or device
        metadata: of the job, as key=value
        max_retries: times the scheduler starts the job again after a failure
    """
    words = [bundle, *given(host=host, port=str(port), withdrawn=withdrawn, config=config), *settings]
    return Job("serve", words, h, image, env, mounts, metadata, max_retries).alone(http=port)
