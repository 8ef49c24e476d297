"""The line as Python functions: what `import intrr_rec as ir` offers (docs/api.md).

Each function takes paths or URLs (docs/storage.md) and a `Recipe`, writes one folder, and returns what it made. None prints, exits or changes a
setting of the process's own; progress goes to the logger `intrr_rec` and to the callback that is given. A mistake of the
caller raises a `UserError` of one line. Heavy packages are imported by the function that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intrr_rec.config import Recipe
from intrr_rec.errors import ConfigError
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Location, location

if TYPE_CHECKING:
    from intrr_rec.io.artefact import Manifest
    from intrr_rec.vectors.encoder import Encoder

Where = str | Path
OnProgress = Callable[[str, int, int, float], None]
OnFigures = Callable[[str, int, dict[str, float]], None]


def prepare(
    interactions: Where | Sequence[Where],
    out: Where,
    *,
    items: Where | None = None,
    recipe: Recipe | None = None,
    engine: Literal["duckdb", "spark"] = "duckdb",
    append: bool = False,
    users: Where | None = None,
) -> Manifest:
    """Interaction logs → dataset artefact at `out` (`intrr prepare`).

    Args:
        interactions: Parquet, CSV or JSON-lines files, or folders of Parquet shards; rows count in the order given.
        items: item table: item id, free columns, text.
        recipe: its section `prepare` counts; None is the defaults.
        engine: what filters, sorts and numbers; the bytes are the same.
        append: add to the dataset at `out`.
        users: user table, for features of users.

    Raises:
        ConfigError, DataError, ArtefactError: as `intrr prepare`.
    """
    from intrr_rec.data.prepare.engines import EngineChoice
    from intrr_rec.data.prepare.prepare import prepare_dataset

    logs = [interactions] if isinstance(interactions, str | Path) else interactions
    settings = (recipe or Recipe()).prepare
    with staged() as places:
        brought = [places.bring(log) for log in logs]
        table, about = (None if place is None else places.bring(place) for place in (items, users))
        written = places.artefact(out, with_content=append)
        return prepare_dataset(brought, table, written, settings, EngineChoice(engine), append=append, users=about)


def embed(
    dataset: Where,
    out: Where,
    *,
    encoder: str | Encoder = "sentence_transformers",
    options: dict[str, Any] | None = None,
    text_column: str = "text",
    batch: int = 16,
) -> Manifest:
    """Item texts → vectors artefact at `out` (`intrr embed`); goes on where a killed call stopped.

    Args:
        dataset: artefact of `prepare`.
        encoder: a registered encoder, `module:Class`, or an object that has the methods of `Encoder`.
        options: settings of a named encoder, such as `{"model": "…"}`.
        text_column: of the item table; an item without text there is embedded by its title.
        batch: texts encoded together.

    Raises:
        ConfigError: an unknown encoder or option, or one that cannot be loaded.
        DataError, ArtefactError: as `intrr embed`.
    """
    from intrr_rec.vectors.embed import EmbedSettings, embed_dataset
    from intrr_rec.vectors.encoder import make_encoder

    made = make_encoder(encoder, options or {}) if isinstance(encoder, str) else encoder
    with staged() as places:
        written = places.artefact(out)
        return embed_dataset(places.bring(dataset), written, made, EmbedSettings(text_column=text_column, batch=batch))


def build_semantic_ids(
    dataset: Where,
    vectors: Where,
    out: Where,
    *,
    recipe: Recipe | None = None,
    extend: Where | None = None,
    on_progress: OnProgress | None = None,
) -> Manifest | None:
    """Item vectors → semantic ids artefact at `out` (`intrr index`, Stage 1).

    Args:
        dataset: artefact of `prepare`.
        vectors: Parquet with item_id and embedding, a folder of shards, or an artefact of `embed`.
        recipe: its section `index` counts; None is the defaults.
        extend: a version to extend: its codebooks and published ids stay, new items get ids.
        on_progress: called with (what is running, step, steps at most, figure of merit) as the quantizer is fitted.

    Returns:
        The manifest; None on every rank but the main one of a job.

    Raises:
        ConfigError, DataError, ArtefactError: as `intrr index`.
    """
    settings = (recipe or Recipe()).index
    from intrr_rec.semantic_ids.build import build_semantic_ids as build
    from intrr_rec.semantic_ids.extend import extend_semantic_ids

    with staged() as places:
        written, read = places.artefact(out), (places.bring(dataset), places.bring(vectors))
        if extend is not None:
            return extend_semantic_ids(places.bring(extend), *read, written, settings)
        return build(*read, written, settings, on_progress=on_progress)


def train(
    dataset: Where,
    semantic_ids: Where,
    out: Where,
    *,
    recipe: Recipe | None = None,
    vectors: Where | None = None,
    init_from: Where | None = None,
    on_figures: OnFigures | None = None,
) -> dict[str, Any]:
    """Train to early stopping, in the run folder `out`, and evaluate on the test split (`intrr train`, Stage 2).

    Alone or under torchrun. A run folder of the same recipe is resumed from its newest checkpoint.

    Args:
        dataset: artefact of `prepare`, also in an object store.
        semantic_ids: artefact of `build_semantic_ids`.
        recipe: its sections `model`, `train` and `evaluate` count; None is the defaults.
        vectors: item vectors, for `model.content`.
        init_from: a run to start from; the catalogue may have grown since.
        on_figures: called by the main rank with (split, epoch, figures) whenever figures are recorded.

    Returns:
        What `results.json` of the run holds; `["test"]` are the metrics.

    Raises:
        ConfigError, DataError, ArtefactError: as `intrr train`.
        Stopped: SIGTERM or SIGINT came and all is saved, or another rank was lost; the same call goes on from there.
    """
    from intrr_rec.training.trainer import train as run

    with staged() as places:
        return run(
            recipe or Recipe(),
            out=places.run(out, write=True),
            dataset=location(dataset),
            semantic_ids=places.bring(semantic_ids),
            vectors=None if vectors is None else places.bring(vectors),
            init_from=None if init_from is None else places.run(init_from, write=False),
            command="intrr_rec.train",
            on_figures=on_figures,
        )


def evaluate(run: Where, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Rank the whole catalogue for every held-out event with a run's best checkpoint (`intrr evaluate`).

    Args:
        run: run folder of `train`.
        overrides: `evaluate.key=value` words.

    Returns:
        What `results.json` of the run holds now; `["test"]` are the metrics.

    Raises:
        ConfigError, ArtefactError: as `intrr evaluate`.
    """
    from intrr_rec.evaluation.results import evaluate_run

    with staged() as places:
        return evaluate_run(places.run(run, write=True), overrides)


def export(
    run: Where,
    out: Where,
    *,
    rows: Literal["float32", "bfloat16", "int8"] = "float32",
    dataset: Where | None = None,
    semantic_ids: Where | None = None,
    vectors: Where | None = None,
) -> Location:
    """The best checkpoint of a run → a bundle at `out`, which `Recommender` opens (`intrr export`).

    Args:
        run: run folder of `train`.
        rows: type of the item embeddings: bfloat16 takes half the memory, int8 a quarter.
        dataset, semantic_ids, vectors: a later version of the catalogue; None is the run's own.

    Returns:
        `out`.

    Raises:
        ConfigError, ArtefactError: as `intrr export`.
    """
    from intrr_rec.serving.bundle.export import Grown, write_bundle

    if (semantic_ids is None) != (dataset is None):
        raise ConfigError("export: semantic_ids and dataset go together")
    with staged() as places:
        written, read = places.artefact(out), places.run(run, write=False)
        grown = None
        if dataset is not None and semantic_ids is not None:
            new_vectors = None if vectors is None else places.bring(vectors)
            grown = Grown(places.bring(dataset), places.bring(semantic_ids), new_vectors)
        write_bundle(read, written, rows, grown)
    return location(out)
