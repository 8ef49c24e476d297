"""The dense loss beside the RAN's, and the beam's items ranked by both."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from intrr_rec.config import EvaluateConfig, ModelConfig, load_recipe
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.windows import evaluation_windows, training_windows
from intrr_rec.decoding.decode import decode
from intrr_rec.decoding.filters import Leaves
from intrr_rec.decoding.shard import Shard
from intrr_rec.errors import ConfigError
from intrr_rec.models import rivals
from intrr_rec.models.embeddings import item_embeddings
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.intrr import IntRR
from intrr_rec.semantic_ids.trie import PrefixTrie

CODES, N_ITEMS, WINDOW = (3, 4, 5), 20, 6
LENGTHS = (5, 8, 4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hstu": {"layers": 1, "width": 8, "heads": 2}, "window": WINDOW, "codebook_std": 0.7, "uid_std": 0.7}
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))[torch.randperm(60)[:N_ITEMS]]
    dense = {"weight": 0.5, "negatives": 4, "temperature": 0.2}
    config = ModelConfig.model_validate({**shape, "ran": {"hidden": 8}, "dense": dense})
    model = IntRR(config, paths, CODES, None, torch.device("cpu")).eval()
    torch.nn.init.constant_(model.dense.repeat_bias, -0.5)
    return model


def bias(model):
    return model.dense.repeat_bias * 8**0.5


@pytest.fixture(scope="module")
def events():
    items_E = np.random.default_rng(0).integers(0, N_ITEMS, sum(LENGTHS))
    return items_E, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)


@pytest.fixture(scope="module")
def ranking(model, events):
    """A test batch and what ranks it."""
    items_E, offsets = events
    batch = Collator(items_E, WINDOW, None, "items")(evaluation_windows(offsets, WINDOW, 1))
    with torch.no_grad():
        catalogue_ID = model.represent(torch.arange(N_ITEMS), None)
        state_BD = model.states(catalogue_ID[batch.items_U[batch.slot_T]], batch.layout)[batch.scored_S]
    return items_E, offsets, batch, PrefixTrie.build(model.codes_IL, CODES), catalogue_ID, state_BD


def test_the_loss_is_the_rans_plus_the_weighted_sampled_softmax_of_cosines(model, events):
    items_E, offsets = events
    sampler = CandidateSampler(N_ITEMS, 4, seed=0)
    batch = Collator(items_E, WINDOW, None, "items", candidates=sampler)(training_windows(offsets, WINDOW))
    found = model(batch)
    items_UD = model.items(batch.items_U, None, model.codebooks()).representation_UD
    state_TD = model.states(items_UD[batch.slot_T], batch.layout)
    owner_T, negatives = batch.layout.owner_CN.flatten(), batch.items_U[batch.candidates.negative_M].tolist()
    nll = []
    for slot, target in zip(batch.scored_S.tolist(), batch.target_S.tolist(), strict=True):
        seen = batch.items_U[batch.slot_T[: slot + 1][owner_T[: slot + 1] == owner_T[slot]]].tolist()

        def score(item, seen=seen, slot=slot):
            place = batch.items_U.tolist().index(item)
            return F.cosine_similarity(state_TD[slot], items_UD[place], dim=0) / 0.2 + bias(model) * (item in seen)

        rivals = [score(item) for item in negatives if item != target and item not in seen]
        rivals += [score(item) for item in seen if item != target]
        nll.append(torch.stack([score(target), *rivals]).logsumexp(0) - score(target))
    expected = torch.stack(nll).mean()
    torch.testing.assert_close(found["dense"], expected, rtol=1e-5, atol=1e-5)
    whole = found["rec_L"].sum() + 0.1 * found["align_L"].sum() + 0.5 * expected
    torch.testing.assert_close(found["loss"], whole, rtol=1e-5, atol=1e-5)


def in_one_piece(head, state_TD, history_TD, items_UD, batch):
    """`DenseHead.nll` by tensors that have a place for each scored slot and item, left to autograd."""
    items_UD, negative_M = F.normalize(items_UD, dim=-1), batch.candidates.negative_M
    state_SD, target_S = F.normalize(state_TD, dim=-1)[batch.scored_S] / head.temperature, batch.candidates.target_S
    slots = batch.layout.owner_CN.shape[1]
    block_S = batch.scored_S // slots
    place_SN, is_seen_SN = batch.slot_T.view(-1, slots)[block_S], batch.layout.visible_from(batch.scored_S)
    own_SN = (F.normalize(history_TD, dim=-1).view(-1, slots, 8)[block_S] @ state_SD[..., None]).squeeze(-1)
    is_target_SN = place_SN == target_S[:, None]
    in_history_SU = torch.zeros(len(target_S), len(items_UD) + 1, dtype=torch.bool)
    in_history_SU.scatter_(1, place_SN.masked_fill(~is_seen_SN, len(items_UD)), True)
    not_a_rival_SM = in_history_SU[:, negative_M] | (negative_M == target_S[:, None])
    negative_SM = (state_SD @ items_UD[negative_M].T).masked_fill(not_a_rival_SM, -torch.inf)
    own_SN = (own_SN + bias_of(head)).masked_fill(~is_seen_SN | is_target_SN, -torch.inf)
    positive_S = (state_SD * items_UD[target_S]).sum(-1) + (is_seen_SN & is_target_SN).any(1) * bias_of(head)
    return torch.cat([positive_S[:, None], negative_SM, own_SN], dim=1).logsumexp(1) - positive_S


def bias_of(head):
    return head.repeat_bias * head.gain


@pytest.mark.parametrize("negatives", [4, 40])  # 40: most of them twice
@pytest.mark.parametrize(("by_tile", "chunk"), [(False, 1 << 27), (False, 1), (True, 1 << 27), (True, 1)])
def test_the_loss_by_pieces_is_the_loss_in_one_piece(model, monkeypatch, by_tile, chunk, negatives):
    rng, lengths = np.random.default_rng(0), [150, 9, 64, 3, 2, 2, 30]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sampler, window = CandidateSampler(N_ITEMS, negatives, seed=0), 90
    collate = Collator(rng.integers(0, N_ITEMS, offsets[-1]), window, None, "items", candidates=sampler)
    batch = collate(training_windows(offsets, window))
    assert len(batch.layout.owner_CN) > 1 and len(batch.scored_S) < (batch.layout.owner_CN >= 0).sum()
    monkeypatch.setattr(rivals, "CHUNK", chunk)
    monkeypatch.setattr(rivals, "WHOLE_BLOCKS", 0 if by_tile else 128)
    given = [torch.randn(rows, 8, requires_grad=True) for rows in (batch.slot_T.numel(),) * 2 + (len(batch.items_U),)]
    parameters = [*given, model.dense.repeat_bias]
    weight_S = torch.rand(len(batch.scored_S))
    (found_S, found), (wanted_S, wanted) = (
        (nll_S, torch.autograd.grad(nll_S @ weight_S, parameters))
        for nll_S in (model.dense.nll(*given, batch), in_one_piece(model.dense, *given, batch))
    )
    torch.testing.assert_close(found_S, wanted_S)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_repeat_bias_learns_that_nobody_comes_back(model, events):
    items_E, offsets = np.random.default_rng(1).permutation(N_ITEMS)[: sum(LENGTHS)], events[1]
    batch = Collator(items_E, WINDOW, None, "items", candidates=CandidateSampler(N_ITEMS, 4, seed=0))(
        training_windows(offsets, WINDOW)
    )
    (gradient,) = torch.autograd.grad(model(batch)["loss"], model.dense.repeat_bias)
    assert gradient > 0


@torch.no_grad()
def test_a_full_beam_ranked_by_both_is_the_catalogue_ranked_by_both(model, ranking):
    items_E, offsets, batch, trie, catalogue_ID, state_BD = ranking
    by_path, by_both = (
        EvaluateConfig(beam=N_ITEMS + 5, rank_by=rank_by, sid_weight=0.7) for rank_by in ("sid", "sid_and_dense")
    )
    items_BW, log_p_BW = decode(model, batch, catalogue_ID, trie, by_path)
    log_p_BI = torch.empty_like(log_p_BW[:, :N_ITEMS]).scatter_(1, items_BW[:, :N_ITEMS], log_p_BW[:, :N_ITEMS])
    cosine_BI = torch.stack([F.cosine_similarity(state_D, catalogue_ID, dim=-1) for state_D in state_BD])
    for row, user in enumerate(batch.user_S.tolist()):
        window_N = items_E[offsets[user] : offsets[user + 1] - 1][-WINDOW:]
        cosine_BI[row, np.unique(window_N)] += 0.2 * bias(model)
    expected = (cosine_BI / 0.2 + 0.7 * log_p_BI).sort(dim=-1, descending=True)
    ranked_BW, scores_BW = decode(model, batch, catalogue_ID, trie, by_both)
    assert ranked_BW[:, :N_ITEMS].tolist() == expected.indices.tolist()
    torch.testing.assert_close(scores_BW[:, :N_ITEMS], expected.values, rtol=1e-5, atol=1e-5)
    assert (ranked_BW[:, N_ITEMS:] == -1).all() and (scores_BW[:, N_ITEMS:] == -torch.inf).all()


@torch.no_grad()
def test_the_wider_pool_holds_the_beam_and_the_densest_items_each_once(model, ranking):
    items_E, offsets, batch, trie, catalogue_ID, state_BD = ranking
    narrow = {"beam": 4, "rank_by": "sid_and_dense"}
    for sid_weight in (0.0, 0.7):
        settings = EvaluateConfig(**narrow, sid_weight=sid_weight, pool="beam_and_dense")
        items_BW, scores_BW = decode(model, batch, catalogue_ID, trie, settings)
        beam_BW, log_p_BW = decode(model, batch, catalogue_ID, trie, EvaluateConfig(beam=4))
        for row in range(len(items_BW)):
            score = {}
            for item in range(N_ITEMS):
                cosine = F.cosine_similarity(state_BD[row], catalogue_ID[item], dim=0).item()
                user = batch.user_S[row]
                seen = item in items_E[offsets[user] : offsets[user + 1] - 1][-WINDOW:]
                score[item] = cosine / 0.2 + bias(model).item() * seen
            densest = sorted(score, key=score.__getitem__, reverse=True)[:4]
            beam = dict(zip(beam_BW[row].tolist(), log_p_BW[row].tolist(), strict=True))
            pool = {i: score[i] + sid_weight * beam.get(i, min(beam.values())) for i in {*beam, *densest}}
            expected = sorted(pool, key=pool.__getitem__, reverse=True)[:4]
            assert items_BW[row].tolist() == expected
            assert scores_BW[row].tolist() == pytest.approx([pool[item] for item in expected], rel=1e-4)


@torch.no_grad()
def test_the_best_of_the_catalogue_where_histories_share_a_block_and_items(model):
    items_E = np.array([3, 7, 1, 9, 7, 5, 3, 2])  # users of three events each: [3, 7] then 1, [9, 7] then 5, [3] then 2
    windows = evaluation_windows(np.array([0, 3, 6, 8]), WINDOW, 1)
    batch = Collator(items_E, WINDOW, None, "items")(windows)
    assert len(batch.layout.owner_CN) == 1
    for seed in (1, 2):  # another catalogue, other cosines
        torch.manual_seed(seed)
        catalogue_ID, state_BD = torch.randn(N_ITEMS, 8), torch.randn(3, 8)
        items_BW, scores_BW = model.dense.best(state_BD, Rows(catalogue_ID), N_ITEMS, batch)
        for row, user in enumerate(batch.user_S.tolist()):
            expected = F.cosine_similarity(state_BD[row], catalogue_ID, dim=-1) / 0.2
            expected[[[3, 7], [9, 7], [3]][user]] += bias(model)
            torch.testing.assert_close(scores_BW[row], expected.sort(descending=True).values)
            assert items_BW[row].tolist() == expected.argsort(descending=True).tolist()


@torch.no_grad()
@pytest.mark.parametrize("places", [1, 4, N_ITEMS])
def test_the_best_by_chunks_are_those_of_the_whole(model, ranking, monkeypatch, places):
    _, _, batch, trie, catalogue_ID, state_BD = ranking
    denied_BM = torch.randint(-1, N_ITEMS, (len(state_BD), 3), generator=torch.Generator().manual_seed(0))
    open_I = torch.arange(N_ITEMS) % 5 > 0
    leaves = Leaves.of(trie)
    for allowed in (None, leaves.allow(None, denied_BM), leaves.allow(leaves.before(open_I), denied_BM)):
        found = []
        for chunk in (1 << 16, 3):
            monkeypatch.setattr(item_embeddings, "CHUNK", chunk)
            found.append(
                model.dense.best(state_BD, Rows(catalogue_ID.clone()), places, batch, allowed and allowed.between)
            )
        torch.testing.assert_close(found[1][1], found[0][1])
        is_open = found[0][1] > -torch.inf
        assert torch.equal(found[1][0][is_open], found[0][0][is_open])
        if allowed is not None:
            assert torch.equal(allowed.at(found[1][0]), is_open)
            assert torch.equal(
                allowed.between(0, N_ITEMS).expand(len(state_BD), -1),
                allowed.at(torch.arange(N_ITEMS)).expand(len(state_BD), -1),
            )


class Rank:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank, size, barrier, boxes):
        self.rank, self.size, self._barrier, self._boxes = rank, size, barrier, boxes

    def gather_rows(self, rows):
        self._boxes[self.rank] = rows
        self._barrier.wait()
        found = torch.cat(self._boxes)
        self._barrier.wait()
        return found

    def sum(self, values):
        return self.gather_rows(values[None]).sum(0)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("denies", [False, True])
def test_ranks_that_hold_shares_of_the_catalogue_rank_as_one_that_holds_it_all(model, events, ranking, ranks, denies):
    items_E, offsets = events
    *_, trie, catalogue_ID, state_BD = ranking
    by_both = EvaluateConfig(beam=6, rank_by="sid_and_dense", pool="beam_and_dense")
    leaves, windows = Leaves.of(trie), evaluation_windows(offsets, WINDOW, 1)
    denied_BM = torch.randint(-1, N_ITEMS, (len(state_BD), 3), generator=torch.Generator().manual_seed(0))

    def of(users, catalogue):
        own = Collator(items_E, WINDOW, None, "items")(windows.take(np.array(users, np.int64)))
        allowed = leaves.allow(None, denied_BM[own.user_S][:, : 1 + len(users)]) if denies else None
        with torch.no_grad():
            return own.user_S, *decode(model, own, catalogue, trie, by_both, allowed)

    shares = [[0], [1, 2], []] if ranks == 3 else [[2], [0, 1]][:ranks] if ranks == 2 else [[0, 1, 2]]
    expected = [of(users, catalogue_ID) for users in shares]
    barrier, boxes, share = threading.Barrier(ranks, timeout=20), [None] * ranks, -(-N_ITEMS // ranks)
    shards = [
        Shard(Rows(catalogue_ID[rank * share : (rank + 1) * share]), rank * share, Rank(rank, ranks, barrier, boxes))
        for rank in range(ranks)
    ]
    with ThreadPoolExecutor(ranks) as pool:
        found = list(pool.map(of, shares, shards))
    for ours, others in zip(found, expected, strict=True):
        assert np.array_equal(ours[0], others[0]) and torch.equal(ours[1], others[1])
        torch.testing.assert_close(ours[2], others[2])


def test_ranking_by_a_loss_that_was_not_trained_is_refused():
    with pytest.raises(ConfigError, match=r"needs a model trained with model\.dense\.weight"):
        load_recipe(None, ["evaluate.rank_by=sid_and_dense"])
