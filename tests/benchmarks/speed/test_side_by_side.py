"""Methods timed side by side do the same work: the flattened baseline gives the same items with a cache and without."""

import json

import pytest
import torch

from benchmarks.speed.side_by_side import (
    CACHED,
    INTRR,
    LARGE,
    SAC,
    SSL,
    UNCACHED,
    _Catalogue,
    compare_decoding,
    random_paths,
)
from benchmarks.speed.uncached import uncached_beam_search
from intrr_rec.decoding.beam_cached import cached_beam_search
from intrr_rec.models.flattened import Flattened
from tests import tiny

SHAPE = ("index.levels=2", "index.codes=6", "index.dedup_codes=16")


@pytest.mark.parametrize("backbone", ["hstu", "t5", tiny.FOREIGN])
def test_no_cache_gives_the_items_of_the_cache(backbone):
    torch.manual_seed(0)
    recipe = tiny.recipe(
        *SHAPE,
        f"model.backbone={backbone}",
        "model.t5.layers=1",
        "model.t5.width=16",
        "model.t5.heads=2",
        *(tiny.FOREIGN_WORDS[1:] if backbone == tiny.FOREIGN else ()),
    )
    catalogue = _Catalogue(recipe, 40)
    config = recipe.model.model_copy(update={"kind": "flattened", "codebook_std": 0.7})
    model = Flattened(config, catalogue.flat_codes_IL, catalogue.sizes, torch.device("cpu")).eval()
    batch = catalogue.batch(5, recipe.model.window)
    with torch.no_grad():
        plain = uncached_beam_search(model, batch, catalogue.trie, 7, "trie")
        cached = cached_beam_search(model, batch, catalogue.trie, 7, "trie")
    assert torch.equal(plain[0], cached[0])
    torch.testing.assert_close(plain[1], cached[1], rtol=1e-4, atol=1e-4)


def test_random_paths_are_unique_and_their_digits_count():
    codes_IL = random_paths(200, [3, 4, 200])
    assert len(codes_IL.unique(dim=0)) == 200
    for path in codes_IL[:, :2].unique(dim=0):
        digits = codes_IL[(codes_IL[:, :2] == path).all(1), 2]
        assert digits.sort().values.tolist() == list(range(len(digits)))


def test_every_method_is_timed_at_every_width(tmp_path):
    out = tmp_path / "figures.json"
    recipe = tiny.recipe(*SHAPE)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- decoding -->\nold\n<!-- end of decoding -->\nafter\n")
    figures = compare_decoding(recipe, items=40, large_items=90, users=3, beams=(2, 10), rounds=2, out=out, page=page)
    assert json.loads(out.read_text()) == figures
    assert set(figures["milliseconds"]) == {
        INTRR,
        LARGE,
        *(f"{kind}, {how}" for kind in (SAC, SSL) for how in (CACHED, UNCACHED)),
    }
    assert all(set(by_width) == {"2", "10"} for by_width in figures["milliseconds"].values())
    assert figures["ratios"][INTRR] == {"2": 1.0, "10": 1.0}
    assert set(figures["trie"]) == {"40", "90"}
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| *the paper's flattened SAC* |  | *(1.27)* |" in text and "40 items" in text
