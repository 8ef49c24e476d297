"""What a user may get: filters of a request, and the masks over the catalogue that answer them.

Shape suffix: I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from intrr_rec.config.logs.time_units import said
from intrr_rec.errors import ConfigError
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.conditions import Bounds, Conditions

FEW_DENIED = 256


@dataclass(frozen=True)
class Filters:
    """What a user may get. Filters leave the scores of the items that remain as they are.

    Attributes:
        exclude_seen: nothing that is in the user's history, all of it; None is as the bundle was evaluated
            (`evaluate.exclude_seen`).
        deny: dense ids that the user may not get.
        allow: dense ids that the user may get; None is all.
        where, without, ranges: conditions on columns of the bundle's items, see `Conditions`.
        any_of: of each of these lists of conditions an item must meet one.
        newer_than: seconds since 1970; items that somebody had before are left out.
        seen: dense ids of what the user had that is not in the history, such as what he disliked; left out with the history.
    """

    exclude_seen: bool | None = None
    deny: Sequence[int] = ()
    allow: Sequence[int] | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    newer_than: int | None = None
    seen: Sequence[int] = ()
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    any_of: Sequence[Sequence[Conditions]] = ()

    @property
    def conditions(self) -> Conditions:
        """Those that every item must meet."""
        return Conditions(self.where, self.without, self.ranges)

    def shared(self) -> tuple | None:
        """What one mask over the catalogue answers, as a key; None where that is every item."""
        conditions = self.conditions.key() if self.conditions else ()
        any_of = tuple(tuple(each.key() for each in clause) for clause in self.any_of)
        allow = None if self.allow is None else tuple(self.allow)
        key = (allow, self.many_denied(), conditions, any_of, self.newer_than)
        return key if key != (None, (), (), (), None) else None

    def mask(self, items: ItemTable) -> np.ndarray:
        """Which items all users of these filters may get, `[I]`; a short `deny` and what is seen are left to each user.

        Raises:
            ConfigError: a column or value that the bundle has not.
        """
        mask_I = np.ones(len(items), np.bool_)
        if self.allow is not None:
            mask_I[:] = False
            mask_I[list(self.allow)] = True
        mask_I[list(self.many_denied())] = False
        mask_I &= self.conditions.mask(items)
        for clause in self.any_of:
            mask_I &= np.any([each.mask(items) for each in clause], axis=0)
        if self.newer_than is not None:
            mask_I &= items.newer(self.newer_than)
        return mask_I

    def require_some(self, items: ItemTable) -> None:
        """Refuse filters that cannot be answered, or that no item passes.

        Raises:
            ConfigError: which, and what there is.
        """
        if self.looks_at_items and not self.mask(items).any():
            raise self.none_passes()

    @property
    def looks_at_items(self) -> bool:
        """Whether columns of the item table decide."""
        return bool(self.conditions or self.any_of) or self.newer_than is not None

    def none_passes(self) -> ConfigError:
        """What to say where no item passes."""
        given = self.conditions.said()
        given += [" OR ".join(" AND ".join(each.said()) for each in clause) for clause in self.any_of]
        given += [] if self.allow is None else [f"{len(self.allow):,} allowed items"]
        given += [] if self.newer_than is None else [f"newer than {said(self.newer_than)}"]
        return ConfigError(f"no item passes all filters together ({', '.join(given)}); leave one out")

    def many_denied(self) -> tuple[int, ...]:
        """`deny` where it is long: counting a few is done user by user, many are cheaper in a mask."""
        return tuple(self.deny) if len(self.deny) > FEW_DENIED else ()


NOTHING = Filters()
