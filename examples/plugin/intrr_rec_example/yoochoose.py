"""The clicks of the RecSys Challenge 2015 (YOOCHOOSE): `session,timestamp,item,category` a line, without a header."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from intrr_rec.config import Section
from intrr_rec.data.raw.reader import LogReader, Rows
from intrr_rec.errors import DataError


class YoochooseConfig(Section):
    """Settings of the reader."""

    encoding: str = Field("utf-8", description="of the file")


class YoochooseClicks(LogReader):
    """`yoochoose-clicks.dat`; times are ISO 8601 in UTC and become whole seconds since 1970."""

    Config = YoochooseConfig
    schema = pa.schema(
        [("user_id", pa.int64()), ("timestamp", pa.int64()), ("item_id", pa.int64()), ("category", pa.string())]
    )

    def rows(self, path: Path) -> Rows:
        """A click a line."""
        with open(path, encoding=self.config.encoding, newline="") as lines:
            for number, values in enumerate(csv.reader(lines), 1):
                try:
                    session, moment, item, category = values
                    seconds = int(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())
                    row = {"user_id": int(session), "timestamp": seconds, "item_id": int(item), "category": category}
                except ValueError as error:
                    raise DataError(
                        f"{path}: row {number} is no click ({error}); it should hold session, time, item, category"
                    ) from None
                yield row
