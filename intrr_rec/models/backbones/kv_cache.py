"""Keys and values kept while a backbone decodes token by token.

A user's prompt (the history) is read once by every beam of that user, never copied for one. What a beam has generated
itself is a few tokens, kept apart and re-ordered as beams are dropped and branch.

Shape suffixes: B users, W beams, R = B·W, P longest prompt, H heads, F width of a head, C blocks, N slots of
a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.batch import Layout

KeysValues = tuple[Tensor, Tensor]


@dataclass
class LayerCache:
    """What the next token of each beam may look at in one layer.

    Attributes:
        prompt_k_BHPF: keys of the prompts; anything beyond a prompt's end.
        prompt_v_BHPF: their values; zero beyond a prompt's end.
        own: keys and values `[B, W, H, F]` of each generated token, the oldest first.
    """

    prompt_k_BHPF: Tensor
    prompt_v_BHPF: Tensor
    own: list[KeysValues] = field(default_factory=list)


@dataclass
class Prompts:
    """The prompts of a batch, as they lie in its packed blocks.

    Attributes:
        packed: each layer's keys and values `[C, H, N, F]`.
        block_B: the block a user's prompt lies in.
        first_B: its first slot there.
        length_B: how many slots it takes.
        start: each layer's keys and values `[B, 1, H, F]` of a start token, which counts as generated.
    """

    packed: Sequence[KeysValues]
    block_B: Tensor
    first_B: Tensor
    length_B: Tensor
    start: Sequence[KeysValues] = ()

    @classmethod
    def up_to(
        cls, last_B: Tensor, layout: Layout, packed: Sequence[KeysValues], start: Sequence[KeysValues] = ()
    ) -> Prompts:
        """The histories up to these slots of a layout, counted over all blocks."""
        slots = layout.owner_CN.shape[1]
        block_B, slot_B = last_B // slots, last_B % slots
        is_own_BN = layout.owner_CN[block_B] == layout.owner_CN.flatten()[last_B][:, None]
        first_B = is_own_BN.int().argmax(1)
        return cls(packed, block_B, first_B, slot_B - first_B + 1, start)

    def cache(self, user_B: Tensor) -> Cache:
        """What the beams of these users look at, gathered out of the blocks."""
        length_B, first_B1 = self.length_B[user_B], self.first_B[user_B, None]
        step_P = torch.arange(max(length_B.tolist(), default=0), device=length_B.device)
        inside_BP = step_P < length_B[:, None]
        slot_BP = torch.where(inside_BP, first_B1 + step_P, first_B1)
        layers = []
        for keys_CHNF, values_CHNF in self.packed:
            k_BPHF, v_BPHF = (x.transpose(1, 2)[self.block_B[user_B, None], slot_BP] for x in (keys_CHNF, values_CHNF))
            v_BPHF = v_BPHF * inside_BP[..., None, None]
            layers.append(LayerCache(k_BPHF.transpose(1, 2).contiguous(), v_BPHF.transpose(1, 2).contiguous()))
        for layer, (k_B1HF, v_B1HF) in zip(layers, self.start, strict=False):
            layer.own.append((k_B1HF[user_B], v_B1HF[user_B]))
        return Cache(length_B, layers)


@dataclass
class Cache:
    """The layers' caches of some users, and how long each prompt is."""

    length_B: Tensor
    layers: list[LayerCache]

    def prompt_distance_BP(self) -> Tensor:
        """How far back each slot of the prompt lies from the token about to be read; not positive where there is none."""
        generated = len(self.layers[0].own)
        step_P = torch.arange(self.layers[0].prompt_k_BHPF.shape[2], device=self.length_B.device)
        distance_BP = self.length_B[:, None] + generated - step_P
        return distance_BP.masked_fill(step_P >= self.length_B[:, None], 0)

    def own_distance_G(self) -> Tensor:
        """The same of the generated tokens, the one about to be read included, the oldest first."""
        return torch.arange(len(self.layers[0].own), -1, -1, device=self.length_B.device)

    def select(self, parent_BW: Tensor) -> None:
        """Make beam w the continuation of the former beam `parent_BW[:, w]`."""
        if not self.layers[0].own:
            return
        former = self.layers[0].own[0][0].shape[1]
        row_R = (parent_BW + torch.arange(len(parent_BW), device=parent_BW.device)[:, None] * former).flatten()
        for layer in self.layers:
            layer.own = [
                (_rows(k_BWHF, row_R, parent_BW.shape), _rows(v_BWHF, row_R, parent_BW.shape))
                for k_BWHF, v_BWHF in layer.own
            ]


def _rows(x_BWHF: Tensor, row_R: Tensor, shape: torch.Size) -> Tensor:
    """Rows of the flattened beams; embedding is the fastest way to copy rows on a CPU."""
    return F.embedding(row_R, x_BWHF.flatten(2).flatten(0, 1)).view(*shape, *x_BWHF.shape[2:])


def scores_with_bias(q_BHWF: Tensor, k_BHPF: Tensor, bias_BHWP: Tensor) -> Tensor:
    """q·kᵀ + bias, `[B, H, W, P]`, in one pass over the scores; the bias may be one for all heads or beams."""
    users, heads, beams, _ = q_BHWF.shape
    bias = bias_BHWP.expand(users, heads, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(bias, q_BHWF.flatten(0, 1), k_BHPF.flatten(0, 1).transpose(1, 2))
    return scores.view(users, heads, beams, k_BHPF.shape[2])
