"""What users had in events that preparation drops: no history holds it, and yet nobody is to be recommended what he had.

Shape suffixes: P pairs of a user and an item, U users, B users that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data.loading.windows import IntArray
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.storage import Folder

SEEN = "seen.parquet"  # user, item, before


@dataclass(frozen=True)
class Seen:
    """Pairs in the order of users.

    Attributes:
        item_P: dense ids.
        before_P: how many events of the user's history came before he first had the item.
        offsets: `[U+1]`; the pairs of user `u` are numbers `offsets[u] … offsets[u+1]-1`.
    """

    item_P: IntArray
    before_P: IntArray
    offsets: IntArray

    @classmethod
    def read(cls, folder: Folder, users: int, items: int) -> Seen:
        """Those of a dataset.

        Raises:
            ArtefactError: no table of whole numbers, a user or item that is none, or pairs out of order.
        """
        try:
            with folder.open(SEEN) as handle:
                columns = pq.ParquetFile(handle).read(["user", "item", "before"]).columns
        except (OSError, pa.ArrowException) as error:
            not_the_input(error)
            raise ArtefactError(f"{folder.place}/{SEEN}: cannot be read ({error}); prepare the logs again") from None
        numbers = [column.to_numpy() for column in columns if column.type == pa.int64() and not column.null_count]
        if len(numbers) != 3:
            raise ArtefactError(
                f"{folder.place}/{SEEN}: has other columns than user, item and before; prepare the logs again"
            )
        user_P, item_P, before_P = numbers
        if len(user_P) and not (
            0 <= user_P[0] <= user_P[-1] < users
            and 0 <= item_P.min() <= item_P.max() < items
            and ((np.diff(user_P) > 0) | ((np.diff(user_P) == 0) & (np.diff(item_P) > 0))).all()
        ):
            raise ArtefactError(
                f"{folder.place}/{SEEN}: holds a pair that is none or out of order; prepare the logs again"
            )
        return cls(item_P, before_P, np.searchsorted(user_P, np.arange(users + 1)))

    def of(self, users_B: IntArray, length_B: IntArray) -> list[IntArray]:
        """The items that each of these users had by then, apart from those of his history.

        Args:
            length_B: events of the history that are over.
        """
        found = []
        for user, length in zip(users_B.tolist(), length_B.tolist(), strict=True):
            span = slice(self.offsets[user], self.offsets[user + 1])
            found.append(self.item_P[span][self.before_P[span] <= length])
        return found

    def had_before(
        self, users: slice, user_E: IntArray, items_E: IntArray, place_E: IntArray, n_items: int
    ) -> NDArray[np.bool_]:
        """Of events of some users: whether the user had the item in one that was dropped before.

        Args:
            users: whose events they are.
            user_E, items_E, place_E: user counted from the first of these, item, and place in the history.
        """
        offsets = self.offsets[users.start : users.stop + 1]
        span = slice(offsets[0], offsets[-1])
        if span.start == span.stop:
            return np.zeros(len(user_E), np.bool_)
        owner_P = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        key_P, key_E = (
            owner_P * n_items + self.item_P[span],
            user_E * n_items + items_E,
        )  # rising, as the pairs are sorted
        place = np.searchsorted(key_P, key_E).clip(max=len(key_P) - 1)
        return (key_P[place] == key_E) & (self.before_P[span][place] <= place_E)
