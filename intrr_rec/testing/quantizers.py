"""What is asked of a quantizer.

Shape suffixes: I items, D width, L levels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer, TensorSource, relative_error
from intrr_rec.testing.checks import Check, require, require_same


def check_quantizer(name: str) -> Iterator[tuple[str, Check]]:
    """Checks of a registered quantizer, each with what it says."""
    small = {
        "training": {"epochs": 2, "batch_items": 64},
        "autoencoder": {"latent": 4, "hidden": [8], "warmup_epochs": 1},
    }
    config = IndexConfig.model_validate({"method": name, "levels": 2, "codes": [4, 5], "iterations": 5} | small)
    x_ID = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))

    def fitted() -> Quantizer:
        quantizer = make_quantizer(config, x_ID.shape[1])
        quantizer.fit(TensorSource(x_ID))
        return quantizer

    def codes() -> None:
        quantizer = fitted()
        codes_IL, distance_I = quantizer.assign(x_ID)
        require(codes_IL.shape == (300, 2) and codes_IL.dtype == torch.int64, "codes are not int64 [I, L]")
        require(distance_I.shape == (300,) and bool((distance_I >= 0).all()), "distances are not [I], from 0")
        require(bool((codes_IL >= 0).all()) and bool((codes_IL < torch.tensor([4, 5])).all()), "a code is out of range")
        require([len(book) for book in quantizer.codebooks] == [4, 5], "codebooks have other sizes than index.codes")

    def repeats() -> None:
        first, again = fitted(), fitted()
        for one, other in zip(first.codebooks, again.codebooks, strict=True):
            require(torch.equal(one, other), "the same vectors, settings and seed give other codebooks")

    def by_item() -> None:
        quantizer = fitted()
        require(
            torch.equal(quantizer.assign(x_ID)[0][37:41], quantizer.assign(x_ID[37:41])[0]),
            "an item's codes depend on the items it is assigned with",
        )

    def kept() -> None:
        first, second = fitted(), make_quantizer(config, x_ID.shape[1])
        second.load_state({key: value.clone() for key, value in first.state().items()})
        require(torch.equal(first.assign(x_ID)[0], second.assign(x_ID)[0]), "other codes after load_state(state())")

    def errors() -> None:
        quantizer = fitted()
        codes_IL, _ = quantizer.assign(x_ID)
        distances = quantizer.distances(x_ID, codes_IL)
        require(distances.shape == (300, 3), f"distances have shape {tuple(distances.shape)}, not (I, 1 + L)")
        require_same(
            torch.tensor(relative_error(quantizer, TensorSource(x_ID))),
            torch.tensor(quantizer.relative_error),
            "relative_error is not that of its own distances",
        )
        for level in range(2):
            input_ID = quantizer.level_input(x_ID, codes_IL[:, :level])
            require(
                input_ID.shape == (300, quantizer.codebooks[level].shape[1]),
                f"the input of level {level + 1} is not as wide as its codebook",
            )

    yield "vectors [I, D] → codes [I, L], each in the range of its level", codes
    yield "the same seed gives the same codebooks", repeats
    yield "an item's codes depend on its vector alone", by_item
    yield "load_state(state()) gives the same codes", kept
    yield "distances and relative_error agree, level by level", errors
