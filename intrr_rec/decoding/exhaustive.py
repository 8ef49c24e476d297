"""The score of every item, without trie or beams: the oracle of the decode, and an option for small catalogues.

Shape suffixes: B users, I items, D width, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.decoding.beam import Normalize
from intrr_rec.models.ran import Ran


def exhaustive_scores(
    ran: Ran, codebooks: Sequence[Tensor], codes_IL: Tensor, x_BD: Tensor, normalize: Normalize
) -> Tensor:
    """log P(c_i | x) of every user and item, `[B, I]`, by teacher-forcing each item's codes; memory O(I·K) a user.

    Args:
        ran: in evaluation mode.
        codebooks: L tensors `[K_l, D]`.
        codes_IL: the Semantic ID of every item.
        x_BD: user states.
        normalize: as in `beam_search`.
    """
    valid = [_valid_codes(codes_IL, level, len(book)) for level, book in enumerate(codebooks)]
    rows = []
    for x_D in x_BD:
        logits = ran.teacher_forced(x_D.expand(len(codes_IL), -1), codes_IL, codebooks)
        if normalize == "trie":
            logits = [level.masked_fill(~mask, -torch.inf) for level, mask in zip(logits, valid, strict=True)]
        log_p = [F.log_softmax(level, dim=-1) for level in logits]
        rows.append(sum(p.gather(1, codes_IL[:, i : i + 1]).squeeze(1) for i, p in enumerate(log_p)))
    return torch.stack([torch.as_tensor(row) for row in rows])


def _valid_codes(codes_IL: Tensor, level: int, n_codes: int) -> Tensor:
    """Codes some item with the same prefix has at `level`, `[I, K]`."""
    _, prefix_I = torch.unique(codes_IL[:, :level], dim=0, return_inverse=True) if level else (None, codes_IL[:, 0] * 0)
    seen = torch.zeros(int(prefix_I.max()) + 1, n_codes, dtype=torch.bool, device=codes_IL.device)
    seen[prefix_I, codes_IL[:, level]] = True
    return seen[prefix_I]
