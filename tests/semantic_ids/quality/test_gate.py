"""The gate: good Semantic IDs pass, each kind of collapse is refused in one line, and nothing at --out changes."""

import numpy as np
import pytest

from intrr_rec.config import GateConfig, IndexConfig
from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.quality.gate import require_quality
from tests.semantic_ids.catalogue import make_catalogue

CONFIG = IndexConfig(levels=2, codes=16, dedup_codes=400)
N_ITEMS = 300
RNG = np.random.default_rng(0)
GOOD = RNG.normal(size=(N_ITEMS, 8)).astype(np.float32)
# As from an encoder that was given one text for all.
NEARLY_EQUAL = (np.ones(8) + 1e-3 * GOOD).astype(np.float32)
# As from empty texts: nine items in ten have the very same vector.
REPEATED = np.where(np.arange(N_ITEMS)[:, None] % 10 > 0, GOOD[1], GOOD).astype(np.float32)
LEVEL = {"codes": 16, "usage": 1.0, "entropy_ratio": 0.9}
QUALITY = {"items": 1_000, "spread": 0.5, "levels": [LEVEL, LEVEL], "collisions": {"rate": 0.3, "distinct_rate": 0.8}}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    inputs = make_catalogue(folder / "in", range(N_ITEMS), GOOD)
    return inputs, build_semantic_ids(*inputs, folder / "ids", CONFIG), folder / "ids"


@pytest.mark.parametrize(
    ("vectors_ID", "config", "words"),
    [
        (NEARLY_EQUAL, CONFIG, ["index.gate.min_spread=null"]),
        (REPEATED, CONFIG, ["entropy_ratio of level 1", "min_entropy_ratio=null", "min_distinct_rate=null"]),
        # Most cells of the first level hold one item, so that nothing is left for the second to tell apart.
        (GOOD, IndexConfig(levels=2, codes=290, dedup_codes=400, normalize=False), ["lower index.codes"]),
    ],
    ids=["nearly equal", "repeated", "K too large"],
)
def test_a_collapsed_index_is_refused_and_the_old_one_stays(good, tmp_path, vectors_ID, config, words):
    _, manifest, published = good
    inputs = make_catalogue(tmp_path / "in", range(N_ITEMS), vectors_ID)
    with pytest.raises(ConfigError) as caught:
        build_semantic_ids(*inputs, published, config)
    said = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in said
    assert all(word in said for word in words), said
    assert SemanticIds.open(published).manifest == manifest
    assert sorted(path.name for path in published.parent.iterdir()) == ["ids", "in"]


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"spread": 1e-4}, "min_spread", "spread of the vectors 0.0001 < 0.001"),
        ({"levels": [LEVEL, LEVEL | {"usage": 0.25}]}, "min_usage", "usage of level 2 0.250 < 0.5"),
        ({"levels": [LEVEL | {"entropy_ratio": 0.1}]}, "min_entropy_ratio", "entropy_ratio of level 1 0.100 < 0.6"),
        ({"collisions": {"rate": 0.95, "distinct_rate": 0.5}}, "max_collision_rate", "collision rate 0.950 > 0.9"),
        ({"collisions": {"rate": 0.5, "distinct_rate": 0.1}}, "min_distinct_rate", "distinct rate 0.100 < 0.15"),
    ],
)
def test_each_floor_names_its_figure_and_null_takes_it_away(change, key, said):
    require_quality(QUALITY, GateConfig())
    with pytest.raises(ConfigError, match=said) as caught:
        require_quality(QUALITY | change, GateConfig())
    assert f"index.gate.{key}=null" in str(caught.value)
    require_quality(QUALITY | change, GateConfig(**{key: None}))


@pytest.mark.parametrize(("items", "codes", "said"), [(1008, 128, "index.codes=32"), (50, 128, "index.codes=2")])
def test_a_catalogue_too_small_for_its_codes_is_told_how_many_fit(items, codes, said):
    few = QUALITY | {"items": items, "levels": [LEVEL | {"codes": codes, "entropy_ratio": 0.2}]}
    with pytest.raises(ConfigError, match=f"{items:,} items are few for {codes} codes: try {said}\\)"):
        require_quality(few, GateConfig())
    enough = few | {"items": 40 * codes}
    with pytest.raises(ConfigError, match="look for repeated vectors"):
        require_quality(enough, GateConfig())
