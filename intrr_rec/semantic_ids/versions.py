"""From an old catalogue to a new one: an item is told by the user's own id, since every dataset numbers items anew.

Shape legend: I items of the new catalogue.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from intrr_rec.errors import ArtefactError
from intrr_rec.semantic_ids.artefact import SemanticIds


def old_places(new_ids: pa.Array, old_ids: pa.Array) -> Tensor:
    """The place among `old_ids` of each of `new_ids`, int64 `[I]`; -1 where it is not among them."""
    place_I = pc.index_in(new_ids, value_set=old_ids).fill_null(-1)
    return torch.tensor(place_I.to_numpy(zero_copy_only=False), dtype=torch.int64)


def extended_places(old: SemanticIds, new: SemanticIds) -> Tensor:
    """The old dense id of every item of an extension, int64 `[I]`; -1 where it has none.

    Raises:
        ArtefactError: `new` does not extend `old`: ids of another type, other level sizes, or an item they share has another
            Semantic ID.
    """
    old_ids, new_ids = old.item_ids.combine_chunks(), new.item_ids.combine_chunks()
    if old_ids.type == new_ids.type and old.codes_per_level == new.codes_per_level:
        place_I = old_places(new_ids, old_ids)
        is_known_I = place_I >= 0
        if torch.equal(new.codes_IL[is_known_I], old.codes_IL[place_I[is_known_I]]):
            return place_I
    raise ArtefactError(
        f"{new.path}: does not extend {old.path}: its Semantic IDs are others, so the trained weights mean nothing to them; "
        f"make it by `intrr index --extend {old.path}`"
    )
