"""Text tables in Latin-1, as MovieLens publishes its own: told by `prepare.encoding`, and the same dataset as from UTF-8."""

import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import DataError

TITLES = ["Misérables, Les (1995)", "Café au lait", "Señorita", "plain"]


def write(folder, encoding):
    folder.mkdir()
    logs = [f"{user}\té{item}\t{n}" for n, (user, item) in enumerate((u, i) for u in range(4) for i in range(4))]
    (folder / "u.data").write_text("\n".join(logs) + "\n", encoding)
    (folder / "u.item").write_text("\n".join(f"é{i}|{title}" for i, title in enumerate(TITLES)) + "\n", encoding)
    (folder / "u.user").write_text("\n".join(f"{u}|{'Zürich' if u % 2 else 'Köln'}" for u in range(4)) + "\n", encoding)


def prepared(folder, out, **more):
    config = PrepareConfig.model_validate(
        {
            "k_core": 1,
            "column_names": ["user_id", "item_id", "timestamp"],
            "items_column_names": ["item_id", "title"],
            "users_column_names": ["user_id", "city"],
            "separator": "\t",
            "items_separator": "|",
            "users_separator": "|",
            "features": {"user": {"city": "categorical"}},
        }
        | more
    )
    renamed = {}
    for name in ("u.data", "u.item", "u.user"):
        renamed[name] = (folder / name).rename(folder / f"{name}.csv")
    prepare_dataset([renamed["u.data"]], renamed["u.item"], out, config, users=renamed["u.user"])


def test_latin_1_gives_the_dataset_of_utf_8(tmp_path):
    for encoding in ("latin-1", "utf-8"):
        write(tmp_path / encoding, encoding)
        prepared(tmp_path / encoding, tmp_path / f"out-{encoding}", encoding=encoding)
    latin, utf = tmp_path / "out-latin-1", tmp_path / "out-utf-8"
    assert pq.read_table(latin / "items.parquet")["title"].to_pylist() == TITLES
    for name in ("items.parquet", "users.parquet", "features.json", "user_features.parquet"):
        assert (latin / name).read_bytes() == (utf / name).read_bytes()
    assert "Zürich" in (latin / "features.json").read_text()


def test_latin_1_that_is_not_told_is_refused_with_the_setting(tmp_path):
    write(tmp_path / "raw", "latin-1")
    with pytest.raises(DataError, match=r"prepare\.encoding=latin-1"):
        prepared(tmp_path / "raw", tmp_path / "out")
