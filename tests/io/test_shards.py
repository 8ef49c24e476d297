"""Finished shards of an unfinished job: what counts as finished."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.io import shards

TABLE = pa.table({"item_id": [1, 2, 3], "score": [0.5, 0.25, 0.125]})


def test_a_shard_is_finished_once_its_hash_lies_beside_it(tmp_path: Path) -> None:
    shard = tmp_path / shards.shard_name(0)
    assert shards.shard_rows(shard) is None
    pq.write_table(TABLE, shard)
    assert shards.shard_rows(shard) is None
    shards.write_shard(shard, TABLE)
    assert shards.shard_rows(shard) == 3
    assert pq.read_table(shard).equals(TABLE)


@pytest.mark.parametrize("name", ["part-00000.parquet", "part-00000.sha256"])
def test_a_changed_byte_makes_a_shard_unfinished(tmp_path: Path, name: str) -> None:
    shard = tmp_path / shards.shard_name(0)
    shards.write_shard(shard, TABLE)
    whole = (tmp_path / name).read_bytes()
    for place in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert shards.shard_rows(shard) is None, place
    (tmp_path / name).write_bytes(whole[:-1])
    assert shards.shard_rows(shard) is None
    (tmp_path / name).write_bytes(whole)
    assert shards.shard_rows(shard) == 3


def test_a_verified_file_is_taken_in_place_of_an_unfinished_shard(tmp_path: Path) -> None:
    known, shard = tmp_path / "known.parquet", tmp_path / shards.shard_name(0)
    pq.write_table(TABLE, known)
    shard.write_bytes(b"cut")
    shards.take_shard(known, shard)
    assert shards.shard_rows(shard) == 3
