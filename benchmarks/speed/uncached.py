"""The flattened baseline decoded as the paper times it: without a cache, every level reads every beam's whole sequence anew.

Shape suffixes: B users, W beams, P tokens of a history, S tokens of a sequence, R sequences, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.decoding.beam import Beams, Normalize
from intrr_rec.models.flattened import Flattened
from intrr_rec.semantic_ids.trie import PrefixTrie

TOKENS_TOGETHER = 65_536  # read in one pass: more would not fit a small machine


def uncached_beam_search(
    model: Flattened, batch: Batch, trie: PrefixTrie, beam: int, normalize: Normalize
) -> tuple[Tensor, Tensor]:
    """As `decoding.cached.cached_beam_search`, for a batch in which every history fills its block."""
    codebooks = model.codebooks()
    users = len(batch.scored_S)
    history_BPD = model.tokens(batch, codebooks)[0].view(users, -1, codebooks[0].shape[1])
    order_B = batch.scored_S.argsort().argsort()  # blocks lie in the order of the batch's slots
    history_BPD = history_BPD[order_B]
    beams = Beams.at_root(users, history_BPD.device)
    chosen: list[Tensor] = []
    for level in range(trie.levels):
        state_BWD = _last_states(model, history_BPD, chosen, codebooks)
        beams = beams.extend(trie, level, (state_BWD @ codebooks[level].T).flatten(0, 1), beam, normalize)
        rows_B1 = torch.arange(users, device=history_BPD.device)[:, None]
        chosen = [code_BW[rows_B1, beams.parent_BW] for code_BW in chosen] + [beams.code_BW]
    return beams.items(trie), beams.score_BW


def _last_states(
    model: Flattened, history_BPD: Tensor, chosen: Sequence[Tensor], codebooks: Sequence[Tensor]
) -> Tensor:
    """The state after each beam's sequence, `[B, W, D]`; W is 1 where nothing is chosen yet."""
    users, prompt, width = history_BPD.shape
    beams = chosen[0].shape[1] if chosen else 1
    length = prompt + len(chosen)
    states = []
    for first in range(0, users, share := max(1, TOKENS_TOGETHER // (beams * length))):
        here = slice(first, first + share)
        parts = [history_BPD[here, None].expand(-1, beams, -1, -1)]
        parts += [
            F.embedding(code_BW[here], book)[:, :, None] for code_BW, book in zip(chosen, codebooks, strict=False)
        ]
        x_TD = torch.cat(parts, dim=2).reshape(-1, width)
        rows = len(x_TD) // length
        layout = Layout(torch.arange(rows, device=x_TD.device)[:, None].expand(-1, length))
        last_R = torch.arange(1, rows + 1, device=x_TD.device) * length - 1
        states.append(model.backbone(x_TD, layout, last_R).view(-1, beams, width))
    return torch.cat(states)
