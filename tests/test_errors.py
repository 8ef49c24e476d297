"""What a message suggests: a near name, or the names there are; never one that has nothing to do with the mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from intrr_rec.config import load_recipe
from intrr_rec.errors import ConfigError, instead, nearest


@pytest.mark.parametrize(
    "word, found",
    [("epoch", "epochs"), ("Title", "title"), ("timestmap", "timestamp"), ("visitor", None), ("", None)],
)
def test_only_a_near_name_is_suggested(word: str, found: str | None) -> None:
    assert nearest(word, ["epochs", "title", "timestamp"]) == found


def test_where_no_name_is_near_the_message_says_which_there_are() -> None:
    assert instead("zzz", ["a", "b"], "train.") == "; there are train.a, train.b"
    assert instead("titel", ["title"]) == "; did you mean 'title'?"
    assert instead("zzz", []) == ""


@pytest.mark.parametrize(
    "word, says",
    [
        ("train.epoch=3", "did you mean 'train.epochs'?"),
        ("epochs=3", "did you mean 'train.epochs'?"),
        ("optimiser=adam", "there are prepare, index, model, train, evaluate, serve"),
    ],
)
def test_a_suggested_setting_is_one_that_works(word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", "[?]")):
        load_recipe(None, [word])
    if "did you mean" in says:
        load_recipe(None, [f"{says.split(chr(39))[1]}=3"])


def test_one_function_looks_for_near_names() -> None:
    package = Path(__file__).parents[1] / "intrr_rec"
    asking = [path.name for path in package.rglob("*.py") if "get_close_matches" in path.read_text(encoding="utf-8")]
    assert asking == ["errors.py"]
