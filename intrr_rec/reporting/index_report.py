"""A semantic ids artefact → one self-contained page beside it: quality, growth, and what lies below each prefix."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from intrr_rec.data.dataset import Dataset
from intrr_rec.io.atomic import write_text
from intrr_rec.reporting.page import Figure, render, usage_figures
from intrr_rec.reporting.plots import SERIES
from intrr_rec.reporting.sunburst import Sector, draw, sectors
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.inspect import open_pair
from intrr_rec.semantic_ids.quality.categories import read_categories
from intrr_rec.semantic_ids.quality.records import Quality

_ZOOMED = 3
_LISTED = 12


def write_index_report(semantic_ids: Path, dataset: Path) -> Path:
    """Write `NAME.report.html` beside the artefact folder NAME, whose hashes must not change, and return its path.

    Raises:
        ArtefactError: an artefact that cannot be read, or a dataset the Semantic IDs were not built for.
        ConfigError: the category column the index was built with is not in the dataset.
    """
    ids, data = open_pair(semantic_ids, dataset)
    quality = Quality.model_validate(ids.quality)
    parts, largest, figures = _prefixes(ids, data)
    name = Path(semantic_ids).resolve().name
    page = render(
        "index_report.html.j2",
        name=name,
        ids=ids,
        config=ids.manifest.config,
        quality=quality,
        usage=usage_figures(quality),
        largest=largest,
        prefixes=len([part for part in parts if part.ring == 0]),
        pictures=figures,
        settings=json.dumps(ids.manifest.config, indent=2, sort_keys=True),
    )
    target = Path(semantic_ids).resolve().with_name(f"{name}.report.html")
    write_text(target, page)
    return target


def _prefixes(ids: SemanticIds, data: Dataset) -> tuple[list[Sector], list[dict[str, Any]], list[Figure]]:
    """Sectors of the whole catalogue, rows for its largest prefixes, and the sunbursts: the whole, then the largest few."""
    codes_IL = ids.codes_IL[:, :-1].numpy()
    categories = read_categories(data, ids.manifest.config.get("category_column"))
    label_I = categories.label_I.numpy() if categories else np.full(ids.n_items, -1)
    names = categories.names if categories else ()
    common = Counter(label_I[label_I >= 0].tolist()).most_common(SERIES)
    colour_of = {label: place for place, (label, _) in enumerate(common)}

    whole = sectors(codes_IL, label_I)
    inner = sorted((part for part in whole if part.ring == 0), key=lambda part: -part.items)
    zooms = [sectors(codes_IL, label_I, part.prefix) for part in inner[:_ZOOMED]] if codes_IL.shape[1] > 1 else []
    wanted = sorted({item for parts in (whole, *zooms) for part in parts for item in part.examples})
    title_of = dict(zip(wanted, data.titles(wanted), strict=True))

    def picture(parts: list[Sector], caption: str, by_category: bool) -> Figure:
        return Figure(draw(parts, colour_of, names, title_of.__getitem__, by_category=by_category), caption)

    figures = [picture(whole, "The whole catalogue: levels 1 and 2", bool(names))]
    figures += [
        picture(parts, f"Below {part.prefix[0]}, one of the largest: levels 2 and 3", False)
        for part, parts in zip(inner, zooms, strict=False)
    ]
    rows = [
        {
            "prefix": part.prefix[0],
            "items": part.items,
            "category": names[part.label] if part.label >= 0 else None,
            "share": part.label_items / part.items,
            "titles": [title_of[item] for item in part.examples],
        }
        for part in inner[:_LISTED]
    ]
    return whole, rows, figures
