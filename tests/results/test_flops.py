from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTForImageClassification

from fedsplit.models.split import split_model
from fedsplit.results.flops import count_parameters, part_flops, part_flops_per_sample
from tests.models.families import zoo
from tests.models.families.steps import logits_of

BOTTOM_FLOPS = 2 * (2 * 3 * 5)  # forward, weight gradient
SERVER_FLOPS = 3 * (2 * 5 * 7)  # forward, weight gradient, cut gradient


def linear_parts() -> tuple[nn.Sequential, nn.Sequential]:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Sequential(nn.Linear(5, 7))


def tiny_vit() -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=7,
        num_channels=1,
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def test_counts_two_flops_per_multiply_add_of_forward_and_backward() -> None:
    bottom, server_part = linear_parts()
    assert part_flops([bottom, server_part], (3,)) == [BOTTOM_FLOPS, SERVER_FLOPS]


def test_an_input_gradient_is_counted_only_if_it_is_needed() -> None:
    _, part = linear_parts()
    assert part_flops_per_sample(part, torch.zeros(1, 5)) == 2 * 70
    assert part_flops_per_sample(part, torch.zeros(1, 5, requires_grad=True)) == SERVER_FLOPS


def test_a_frozen_bottom_costs_its_forward_only_and_needs_no_cut_gradient() -> None:
    bottom, server_part = linear_parts()
    bottom.requires_grad_(False)
    assert part_flops([bottom, server_part], (3,)) == [30, 2 * 70]


def test_state_of_several_tensors() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 7)

        def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"out": self.linear(state["hidden"]), "mask": state["mask"]}

    state = {"hidden": torch.zeros(1, 5, requires_grad=True), "mask": torch.ones(1, 5).bool()}
    assert part_flops_per_sample(Two(), state) == SERVER_FLOPS


def test_part_and_global_state_are_unchanged() -> None:
    part = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5)).train()
    with torch.no_grad():
        assert part_flops_per_sample(part, torch.zeros(1, 3)) == BOTTOM_FLOPS
    assert part.training
    assert all(p.grad is None and p.device.type == "cpu" for p in part.parameters())


@pytest.mark.parametrize("cut_layer", [1, 2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_split_vit_costs_what_the_whole_costs(cut_layer: int, attention: str) -> None:
    whole = tiny_vit()
    whole.set_attn_implementation(attention)
    split = split_model(whole, [cut_layer])
    client, server = part_flops([split.bottom, split.server_part()], (1, 28, 28))
    assert client + server == part_flops_per_sample(whole, torch.zeros(1, 1, 28, 28))


def test_whole_vit_by_hand() -> None:
    tokens, width, hidden, blocks, classes = 17, 32, 64, 2, 10
    patches = 2 * 16 * 49 * width
    attention = 2 * 2 * tokens * tokens * width
    dense = 2 * tokens * (4 * width * width + 2 * width * hidden)
    head = 2 * width * classes
    by_hand = 2 * patches + 3 * (blocks * (attention + dense) + head)
    assert part_flops_per_sample(tiny_vit(), torch.zeros(1, 1, 28, 28)) == by_hand


@pytest.mark.parametrize("name", ["vit-nano", "torchvision", "timm", "swin", "dinov2"])
def test_parts_agree_with_torch_on_a_real_step_of_the_whole(name: str) -> None:
    """Break it: leave the backward pass of one part out."""
    whole = zoo.make(name)
    spec = zoo.images_of(whole)
    shape = (spec.channels, spec.height, spec.width)
    # The counter of torch does not count the fused attention of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.autograd.backward(logits_of(whole(torch.zeros(1, *shape))).sum())
    for cut in (1, 2, 3):
        split = split_model(whole, [cut])
        found = part_flops([split.bottom, split.trunk, split.top], shape)
        assert sum(found) == pytest.approx(counter.get_total_flops(), rel=0.01)
        assert min(found[0], found[1] + found[2]) > 0


def test_count_parameters() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert count_parameters(tied) == 16 + 4
    assert count_parameters(nn.Identity()) == 0


def test_a_part_may_begin_with_an_operation_in_place() -> None:
    """Break it: run it on a leaf."""
    bottom, server_part = linear_parts()
    inplace = nn.Sequential(nn.ReLU(inplace=True), *server_part)
    assert part_flops([bottom, inplace], (3,)) == [BOTTOM_FLOPS, SERVER_FLOPS]
