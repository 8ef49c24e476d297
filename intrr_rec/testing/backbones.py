"""What is asked of a backbone.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, G generated tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from intrr_rec.config import ModelConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.backbone import Backbone, make_backbone
from intrr_rec.models.backbones.kv_cache import Prompts
from intrr_rec.testing.checks import OWNER_CN, WINDOW, Check, require, require_gradients, require_same


def check_backbone(name: str) -> Iterator[tuple[str, Check]]:
    """Checks of a registered backbone, each with what it says."""
    config = ModelConfig(backbone=name)

    def made() -> tuple[Backbone, Layout, Tensor]:
        torch.manual_seed(0)
        backbone = make_backbone(config, WINDOW + 8).eval()
        for parameter in backbone.parameters():  # away from the initial scale, so that every term counts
            torch.nn.init.normal_(parameter, std=0.1)
        event_time_CN = torch.randint(0, 10**7, OWNER_CN.shape).cumsum(1)
        layout = Layout(OWNER_CN, event_time_CN, event_time_CN + 10)
        return backbone, layout, torch.randn(OWNER_CN.numel(), config.width)

    @torch.no_grad()
    def shape() -> None:
        backbone, layout, x_TD = made()
        state_TD = backbone(x_TD, layout)
        require(state_TD.shape == x_TD.shape, f"states have shape {tuple(state_TD.shape)}, not {tuple(x_TD.shape)}")
        require(bool(state_TD[OWNER_CN.flatten() >= 0].isfinite().all()), "a state is not finite")
        require_same(backbone(x_TD, layout), state_TD, "two passes in evaluation mode differ")

    @torch.no_grad()
    def causal() -> None:
        backbone, layout, x_TD = made()
        changed_TD = x_TD.clone()
        changed_TD[8 + 3] += 1  # of user 2, at its fourth slot
        before, after = backbone(x_TD, layout), backbone(changed_TD, layout)
        require_same(after[8 : 8 + 3], before[8 : 8 + 3], "an earlier state sees a later item")
        require(
            not torch.allclose(after[8 + 3 : 8 + 6], before[8 + 3 : 8 + 6]), "an item leaves no trace in later states"
        )

    @torch.no_grad()
    def packed() -> None:
        backbone, layout, x_TD = made()
        assert layout.event_time_CN is not None and layout.request_time_CN is not None
        alone = Layout(*(each[:1, 3:7] for each in (layout.owner_CN, layout.event_time_CN, layout.request_time_CN)))
        require_same(
            backbone(x_TD[3:7], alone),
            backbone(x_TD, layout)[3:7],
            "a history's neighbours in its block change its states",
        )

    @torch.no_grad()
    def some() -> None:
        backbone, layout, x_TD = made()
        at_S = torch.tensor([6, 2, 13, 23])
        require_same(backbone(x_TD, layout, at_S), backbone(x_TD, layout)[at_S], "states asked for by at_S are others")

    @torch.no_grad()
    def stepped() -> None:
        backbone, layout, x_TD = made()
        plain = Layout(layout.owner_CN)
        last_U = torch.tensor([2, 6, 13])
        _, keys_values = backbone.prefill(x_TD, plain, last_U)
        cache = Prompts.up_to(last_U, plain, keys_values).cache(torch.arange(3))
        own_UGD = torch.randn(3, 2, config.width)
        stepped_UGD = torch.stack([backbone.step(own_UGD[:, None, g], cache)[:, 0] for g in range(2)], dim=1)
        for user, history_TD in enumerate((x_TD[0:3], x_TD[3:7], x_TD[8:14])):
            whole_TD = torch.cat([history_TD, own_UGD[user]])
            whole = backbone(whole_TD, Layout(torch.zeros(1, len(whole_TD), dtype=torch.int64)))
            require_same(stepped_UGD[user], whole[-2:], "reading on from the cache gives other states than one pass")

    def learns() -> None:
        backbone, layout, x_TD = made()
        backbone(x_TD, layout)[OWNER_CN.flatten() >= 0].square().sum().backward()
        require_gradients(backbone)

    yield "tokens [T, D] → finite states [T, D], the same every time", shape
    yield "no state sees a later item", causal
    yield "what shares a block changes nothing", packed
    yield "states asked for by at_S are those of the whole pass", some
    if not config.backbone_settings.reads_times:
        yield "reading on token by token gives the states of one pass", stepped
    yield "every parameter gets a gradient", learns
