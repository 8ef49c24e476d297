"""A search that passes over blocks finds what looking at every title finds; of the popular it looks at few."""

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from intrr_rec.serving.bundle import title_search
from intrr_rec.serving.bundle.title_search import NAME, SEARCH, TitleSearch, write_search

ITEMS = 20_000


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    rng = np.random.default_rng(0)
    alphabet = np.array(list("abcdefgh ÄßéK日本"))
    titles = ["".join(rng.choice(alphabet, rng.integers(0, 12))) for _ in range(ITEMS)]
    titles[7], titles[-1] = "Xylophone, q", "zq"
    folder, by_popularity_I = tmp_path_factory.mktemp("search"), rng.permutation(ITEMS)
    write_search(pa.array(titles, pa.large_string()), by_popularity_I, folder / SEARCH)
    grams_HG = load_file(folder / SEARCH)[NAME].numpy()
    return TitleSearch(pa.array(titles, pa.large_string()), by_popularity_I, grams_HG)


@pytest.mark.parametrize(
    "query", ["a", "ab", "abc", "äß", "日本", "b 日", "hg fe", "xylophone", "ylo q", "q", "zq", "zqq", "nothing"]
)
@pytest.mark.parametrize("limit", [1, 30, ITEMS])
def test_it_finds_what_looking_at_every_title_finds(search, query, limit):
    words = query.split()
    assert search.find(words, limit) == TitleSearch(search.titles, search.by_popularity_I, None).find(words, limit)
    titles = search.titles.take(pa.array(search.by_popularity_I)).to_pylist()
    has_I = np.array([all(word in title.lower() for word in words) for title in titles])
    assert search.find(words, limit) == search.by_popularity_I[has_I].tolist()[:limit]


def test_it_looks_at_few_titles(search, monkeypatch):
    looked_at = []
    lower = title_search.pc.utf8_lower
    monkeypatch.setattr(title_search.pc, "utf8_lower", lambda titles: looked_at.append(len(titles)) or lower(titles))
    for words, limit, most in ((["a"], 10, 1), (["xylophone"], 10, 1), (["nothing"], 10, 0)):
        looked_at.clear()
        search.find(words, limit)
        assert len(looked_at) <= most
