"""Growth: new items join a published index under its frozen codebooks, and no published id moves (`intrr index --extend`).

Items are known by the user's own id, since a new dataset numbers them anew. An item that leaves is retired: its Semantic ID stays
taken, and is its own again should it come back.

Shape legend: I items, N newcomers, T published Semantic IDs (live and retired), G groups of equal residual codes, L residual levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from intrr_rec.config import IndexConfig, section_name
from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Draft, Manifest
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.formats.records import as_record
from intrr_rec.semantic_ids.artefact import KIND, QUANTIZER, Growth, Published, SemanticIds, fill
from intrr_rec.semantic_ids.build import assign_all
from intrr_rec.semantic_ids.collisions import code_groups
from intrr_rec.semantic_ids.quality.categories import read_categories
from intrr_rec.semantic_ids.quality.drift import measure_drift
from intrr_rec.semantic_ids.quality.gate import require_quality
from intrr_rec.semantic_ids.quality.metrics import assess
from intrr_rec.semantic_ids.quality.summary import show_growth, show_quality
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.versions import old_places
from intrr_rec.vectors.table import read_vectors, vectors_hash

# What an extension may choose anew; all else belongs to the codebooks and the Semantic IDs already published.
OPEN_SETTINGS = {"gate", "drift", "category_column"}


def extend_semantic_ids(
    old_dir: Path, dataset_dir: Path, vectors_path: Path, out: Path, config: IndexConfig
) -> Manifest:
    """Publish the next version of an index for a new catalogue; `out` may be `old_dir` itself, which is then kept beside it.

    Args:
        old_dir: the version to extend.
        dataset_dir: the new catalogue: items that stay, items that are new; those missing are retired.
        vectors_path: vectors of all its items, from the encoder of the old one.
        config: `gate`, `drift` and `category_column` count; anything else must be left out or be what it was.

    Raises:
        DataError, ArtefactError: unusable or unrelated inputs.
        ConfigError: a frozen setting, spent de-duplication digits, or Semantic IDs below a floor of `index.gate`.
    """
    with artefact.writing(out, KIND, {}, keep_old=True) as draft:
        told = _extend(draft, old_dir, dataset_dir, vectors_path, config)
    told(out)
    return artefact.read(out, KIND)


def _extend(
    draft: Draft, old_dir: Path, dataset_dir: Path, vectors_path: Path, config: IndexConfig
) -> Callable[[Path], None]:
    """Fill the draft; returns what shows the figures."""
    old, dataset = SemanticIds.open(old_dir), Dataset.open(dataset_dir)
    settings = frozen_settings(old, config)
    item_ids = dataset.item_ids().combine_chunks()
    _require_same_ids(old, dataset, item_ids)
    source = TensorSource(torch.from_numpy(read_vectors(vectors_path, dataset)))
    state = dict(old.quantizer)
    if source.width != old.manifest.config["width"]:
        raise ArtefactError(
            f"{vectors_path}: vectors have {source.width} dimensions, those of {old_dir} had "
            f"{old.manifest.config['width']}; embed the items with the encoder of the old index"
        )
    quantizer = make_quantizer(settings, source.width)
    try:
        quantizer.load_state(state)
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        not_the_input(error)
        raise ArtefactError(
            f"{old_dir}/{QUANTIZER}: is not of its settings ({error!r:.200}); build a fresh index"
        ) from None
    version = old.version + 1
    live, retired = extend_sids(
        published_ids(old),
        item_ids,
        assign_all(quantizer, source),
        dedup_codes=settings.dedup_codes,
        version=version,
    )
    residual_IL = live.codes_IL[:, :-1]
    categories = read_categories(dataset, settings.category_column)
    quality, found = assess(quantizer, source, residual_IL, categories, settings.seed)
    reference = old.drift["reference"] if old.drift else old.quality["distances"]
    drift = measure_drift(reference, found.norm_I, found.left_I, residual_IL, live.since_I, version, settings.drift)
    require_quality(quality, settings.gate)
    fill(
        draft,
        codes_IL=live.codes_IL,
        codes_per_level=old.codes_per_level,
        codebooks=quantizer.codebooks,
        quantizer=state,
        item_ids=dataset.item_ids(),
        quality=quality,
        config={**old.manifest.config, **settings.model_dump(mode="json")},
        parents={
            "dataset": dataset.manifest.content_hash,
            "vectors": vectors_hash(vectors_path),
            "semantic ids": old.manifest.content_hash,
        },
        growth=Growth(version, live.since_I, retired, drift),
    )

    def tell(out: Path) -> None:
        show_quality(quality, out)
        show_growth(version, drift, len(retired))

    return tell


def extend_sids(
    published: Published, item_ids: pa.Array, residual_IL: Tensor, *, dedup_codes: int, version: int
) -> tuple[Published, Published]:
    """Semantic IDs of a new catalogue.

    Args:
        published: every Semantic ID ever given out, live or retired.
        item_ids: the new catalogue's own ids, of the type of the published ones.
        residual_IL: their codes under the frozen codebooks; read for newcomers only.
        dedup_codes: size of the de-duplication level.
        version: number of the version being made.

    Returns:
        The live ones in the order of `item_ids`, and the retired ones.

    Raises:
        ConfigError: residual codes whose de-duplication digits are spent.
    """
    place_I = old_places(item_ids, published.item_ids)
    is_new_I = place_I < 0
    codes_IL = published.codes_IL.new_empty(len(place_I), published.codes_IL.shape[1])
    codes_IL[~is_new_I] = published.codes_IL[place_I[~is_new_I]]
    codes_IL[is_new_I] = newcomer_sids(published.codes_IL, residual_IL[is_new_I], dedup_codes)
    since_I = torch.full_like(place_I, version)
    since_I[~is_new_I] = published.since_I[place_I[~is_new_I]]
    gone_T = torch.ones(len(published), dtype=torch.bool)
    gone_T[place_I[~is_new_I]] = False
    gone_ids = published.item_ids.filter(pa.array(gone_T.numpy()))
    return (
        Published(item_ids, codes_IL, since_I),
        Published(gone_ids, published.codes_IL[gone_T], published.since_I[gone_T]),
    )


def newcomer_sids(taken_TL: Tensor, residual_NL: Tensor, dedup_codes: int) -> Tensor:
    """Newcomers' Semantic IDs `[N, L + 1]`: the digit continues after the highest one taken for their residual codes.

    For residual codes that nobody has, `collisions.ORDER_RULE` holds: 0 for a single newcomer, else 1, 2, … in order.

    Args:
        taken_TL: Semantic IDs, the digit last.
        residual_NL: residual codes.

    Raises:
        ConfigError: residual codes whose digits are spent.
    """
    n_taken = len(taken_TL)
    if not len(residual_NL):
        return taken_TL.new_empty(0, taken_TL.shape[1])
    group_G, rank_G = code_groups(torch.cat([taken_TL[:, :-1], residual_NL]))
    n_groups = int(group_G.max()) + 1
    highest_G = torch.full((n_groups,), -1).scatter_reduce(0, group_G[:n_taken], taken_TL[:, -1], "amax")
    before_G = torch.bincount(group_G[:n_taken], minlength=n_groups)
    joining_G = torch.bincount(group_G[n_taken:], minlength=n_groups)
    first_G = torch.where((highest_G < 0) & (joining_G > 1), 1, highest_G + 1)
    group_N = group_G[n_taken:]
    digits_N = first_G[group_N] + rank_G[n_taken:] - before_G[group_N]
    if int(digits_N.max()) >= dedup_codes:
        worst = int(digits_N.argmax())
        raise ConfigError(
            f"index.dedup_codes: the codes {tuple(residual_NL[worst].tolist())} need digit {int(digits_N[worst])}, but "
            f"digits end at {dedup_codes - 1} and those of live and retired items are never reused; build a fresh index "
            "(without --extend) with more index.dedup_codes or index.codes"
        )
    return torch.cat([residual_NL, digits_N.unsqueeze(1)], 1)


def published_ids(old: SemanticIds) -> Published:
    """Every Semantic ID the artefact and its ancestors gave out, live ones first."""
    live_ids, retired = old.item_ids.combine_chunks(), old.retired
    return Published(
        pa.concat_arrays([live_ids, retired.item_ids]),
        torch.cat([old.codes_IL.long(), retired.codes_IL]),
        torch.cat([old.since_I, retired.since_I]),
    )


def frozen_settings(old: SemanticIds, config: IndexConfig) -> IndexConfig:
    """The settings the codebooks were made with, and `config`'s for what an extension may choose.

    Raises:
        ConfigError: `config` sets something frozen to another value.
    """
    method = old.manifest.config.get("method")
    own = {*IndexConfig.model_fields, section_name(str(method))}  # a plug-in's section is frozen too
    kept = {name: old.manifest.config[name] for name in own if name in old.manifest.config}
    frozen = as_record(kept, IndexConfig, f"{old.path}/{MANIFEST}", "build a fresh index (without --extend)")
    for name in sorted(config.model_fields_set - OPEN_SETTINGS):
        asked, has = getattr(config, name), getattr(frozen, name)
        if asked != has:
            raise ConfigError(
                f"index.{name}: {asked} was asked for, but {old.path} was built with {has} and an extension keeps its "
                "codebooks; leave the setting out, or build a fresh index (without --extend)"
            )
    return frozen.model_copy(update={name: getattr(config, name) for name in OPEN_SETTINGS})


def _require_same_ids(old: SemanticIds, dataset: Dataset, item_ids: pa.Array) -> None:
    """Refuse a dataset whose ids cannot be those of the artefact.

    Raises:
        ArtefactError: ids of another type.
    """
    known = old.item_ids.type
    if item_ids.type != known:
        raise ArtefactError(
            f"{dataset.path}: its item ids are {item_ids.type}, those of {old.path} are {known}; prepare the logs with the "
            "ids the index was built with"
        )
