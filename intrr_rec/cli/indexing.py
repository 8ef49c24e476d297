"""The verbs of vectors and Semantic IDs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from intrr_rec.cli.options import Config, DatasetDir, Out, Overrides, SemanticIdsDir, recipe_of
from intrr_rec.cli.process.before import loading, require_artefact, require_vectors
from intrr_rec.cli.process.closing import beside, close, command


def embed(
    dataset: DatasetDir,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option("--model", help="sentence-transformers folder or hub name; all-MiniLM-L6-v2 if left out."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the item table; without text there, the title.")] = "text",
    batch: Annotated[int, typer.Option(min=1, help="Texts encoded together.")] = 16,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto: bf16 where the processor computes it natively.")
    ] = "auto",
    shard_rows: Annotated[int, typer.Option(min=1, help="Items a file, and what a killed job may lose.")] = 8_192,
    storage: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the vectors on disk.")] = "float16",
) -> None:
    """Item texts → vectors artefact, by a sentence encoder; goes on where a killed run of the same job stopped."""
    require_artefact(dataset, "dataset")
    with loading():
        from intrr_rec.vectors.embed import DEFAULT_MODEL, EmbedSettings, embed_dataset
        from intrr_rec.vectors.encoder import SentenceEncoder

    encoder = SentenceEncoder(model or DEFAULT_MODEL, precision)
    embed_dataset(dataset, out, encoder, EmbedSettings(text_column, batch, shard_rows, storage))
    close(command("index", "--dataset", dataset, "--vectors", out, "--out", beside(out, "semantic_ids")))


def concat_vectors(
    dataset: DatasetDir,
    vectors: Annotated[
        list[str],
        typer.Option("--vectors", help="NAME=PATH[:COLUMN]: Parquet, a folder of shards, or .npy; repeatable."),
    ],
    out: Out,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="NAME=NUMBER, 1 if left out; repeatable.")
    ] = None,
    storage: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the vectors on disk.")] = "float16",
) -> None:
    """Several vectors an item (text, image, behaviour) → one vectors artefact: each L2-normalised, weighed, concatenated."""
    from intrr_rec.vectors.concat import concat_vectors as run
    from intrr_rec.vectors.concat import parse_parts

    run(dataset, out, parse_parts(vectors, weight or ()), storage)


def index(
    dataset: DatasetDir,
    vectors: Annotated[Path, typer.Option("--vectors", help="Parquet with item_id and embedding (fixed-size list).")],
    out: Out,
    extend: Annotated[
        Path | None,
        typer.Option("--extend", help="Version to extend: its codebooks and published ids stay, new items get ids."),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Item vectors → semantic ids artefact: codebooks, de-duplication digit, prefix trie, quality figures (Stage 1)."""
    settings = recipe_of(config, overrides).index
    require_artefact(dataset, "dataset")
    require_vectors(vectors)
    if extend:
        require_artefact(extend, "semantic ids")
        with loading():
            from intrr_rec.semantic_ids.extend import extend_semantic_ids

        extend_semantic_ids(extend, dataset, vectors, out, settings)
        return
    with loading():
        from intrr_rec.semantic_ids.build import build_semantic_ids

    build_semantic_ids(dataset, vectors, out, settings)
    inputs = ("--dataset", dataset, "--semantic-ids", out, "--vectors", vectors)
    close(command("train", *inputs, "--out", "runs/first", "--config", "best"))


def inspect_ids(
    semantic_ids: SemanticIdsDir,
    dataset: DatasetDir,
    item: Annotated[
        str | None, typer.Option("--item", help="An item's own id: whom it shares each prefix with.")
    ] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Codes such as 12,7: what lies below them.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Titles shown in one place.")] = 5,
) -> None:
    """Show the titles that share an item's prefixes, level by level, or those below a prefix."""
    from intrr_rec.semantic_ids.inspect import print_ids

    print_ids(semantic_ids, dataset, item=item, prefix=prefix, show=show)
