"""What all backbones have in common: the states asked for are those of the whole pass."""

import pytest
import torch

from intrr_rec.config import ModelConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.backbone import make_backbone
from tests import tiny

OWNER_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, -1, -1], [3, 3, 3, 3, 3, 3, 3, 3]])
SHAPE = {"layers": 2, "width": 12, "heads": 3, "dropout": 0.0}
BACKBONES = {
    "hstu": {"backbone": "hstu", "hstu": SHAPE},
    "hstu with times": {"backbone": "hstu", "hstu": SHAPE | {"time_bias": True}},
    "one layer": {"backbone": "hstu", "hstu": SHAPE | {"layers": 1}},
    "hstu_released": {"backbone": tiny.FOREIGN, "hstu_released": SHAPE},
    "t5": {"backbone": "t5", "t5": SHAPE | {"head_width": 5, "feed_forward": 20, "deep_feed_forward": True}},
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("at", [[6, 2, 13, 23], [0, 1, 5, 5, 16, 17], [8], []], ids=["last", "any", "one", "none"])
@torch.no_grad()
def test_states_of_some_slots_are_those_of_the_whole_pass(name, at):
    torch.manual_seed(0)
    backbone = make_backbone(ModelConfig.model_validate(BACKBONES[name]), OWNER_CN.shape[1])
    for parameter in backbone.parameters():  # away from the initial scale, so that every term counts
        torch.nn.init.normal_(parameter, std=0.5)
    event_time_CN = torch.randint(0, 10**7, OWNER_CN.shape).cumsum(1)
    layout = Layout(OWNER_CN, event_time_CN, event_time_CN + torch.randint(0, 10**5, OWNER_CN.shape))
    x_TD, at_S = torch.randn(OWNER_CN.numel(), 12), torch.tensor(at, dtype=torch.int64)
    whole_TD, whole_packed = backbone.prefill(x_TD, layout)
    state_SD, packed = backbone.prefill(x_TD, layout, at_S)
    torch.testing.assert_close(state_SD, whole_TD[at_S])
    torch.testing.assert_close(backbone(x_TD, layout, at_S), state_SD, rtol=0, atol=0)
    for found, expected in zip(packed, whole_packed, strict=True):
        torch.testing.assert_close(found, expected)


def test_where_some_slots_may_look():
    at_S = torch.tensor([6, 2, 13, 7])
    layout = Layout(OWNER_CN)
    assert torch.equal(layout.visible_from(at_S), layout.visible_CNN().flatten(0, 1)[at_S])
