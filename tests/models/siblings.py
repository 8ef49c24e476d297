"""Which codes no item has after a prefix: the oracle of the trie's normalisation."""

import torch


def not_siblings(codes_IL, path_L, level, n_codes):
    """True at the codes of `level` that no item continues `path_L[:level]` with, `[K]`."""
    siblings = (codes_IL[:, :level] == path_L[:level]).all(1)
    others_K = torch.ones(n_codes, dtype=torch.bool)
    others_K[codes_IL[siblings, level]] = False
    return others_K
