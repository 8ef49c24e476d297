"""Keys and values kept while a backbone decodes token by token.

A user's prompt (the history) is read once by every beam of that user, never copied for one. What a beam has generated
itself is a few tokens, kept apart and re-ordered as beams are dropped and branch.

Shape suffixes: B users, W beams, P longest prompt, H heads, F width of a head, C blocks, N slots of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
class Cache:
    """The layers' caches, and how long each prompt is."""

    length_B: Tensor
    layers: list[LayerCache]

    @classmethod
    def of_prompts(cls, packed: Sequence[KeysValues], block_B: Tensor, first_B: Tensor, length_B: Tensor) -> Cache:
        """Gather each user's prompt out of packed blocks.

        Args:
            packed: each layer's keys and values `[C, H, N, F]`.
            block_B: the block a user's prompt lies in.
            first_B: its first slot there.
            length_B: how many slots it takes.
        """
        longest = max(length_B.tolist(), default=0)
        step_P = torch.arange(longest, device=length_B.device)
        inside_BP = step_P < length_B[:, None]
        slot_BP = torch.where(inside_BP, first_B[:, None] + step_P, first_B[:, None])
        layers = []
        for keys_CHNF, values_CHNF in packed:
            k_BPHF, v_BPHF = (x.transpose(1, 2)[block_B[:, None], slot_BP] for x in (keys_CHNF, values_CHNF))
            v_BPHF = v_BPHF * inside_BP[..., None, None]
            layers.append(LayerCache(k_BPHF.transpose(1, 2).contiguous(), v_BPHF.transpose(1, 2).contiguous()))
        return cls(length_B, layers)

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
        for layer in self.layers:
            layer.own = [(_rows(k_BWHF, parent_BW), _rows(v_BWHF, parent_BW)) for k_BWHF, v_BWHF in layer.own]


def _rows(x_BWHF: Tensor, parent_BW: Tensor) -> Tensor:
    first_B1 = torch.arange(len(x_BWHF), device=x_BWHF.device)[:, None] * x_BWHF.shape[1]
    return x_BWHF.flatten(0, 1)[first_B1 + parent_BW]
