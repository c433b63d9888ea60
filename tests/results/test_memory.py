from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from fedsplit.config import Config
from fedsplit.models.loading import input_spec, load_model, load_split_model
from fedsplit.models.split import join_parts, split_model, stage_names
from fedsplit.models.trainable import Lora, Mode, train_only
from fedsplit.results.memory import ChainMemory, TrainingMemory, part_memory, together
from tests.models.families import zoo
from tests.split.toys import optimizer_of

NANO = (1, 28, 28)


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return Adam([{"params": list(parameters)}])


def plain_sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD([{"params": list(parameters)}], lr=0.1)


def saved_by(model: nn.Module, images: Tensor) -> int:
    """Return what autograd saves in a real run: each storage once, without weights."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    return sum(
        tensor.untyped_storage().nbytes() for at, tensor in saved.items() if at not in weights
    )


def test_a_linear_layer_by_hand() -> None:
    parts = [nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Linear(5, 7)]
    bottom, server = part_memory(parts, (3,), 4, adam)
    # The input is saved for the gradient of the weight, and the output of tanh for its own. The
    # latter is also the input of the second layer, on the other side of a cut.
    assert bottom == TrainingMemory(80, 80, 2 * 80 + 2 * 4, 4 * (4 * 3 + 4 * 5))
    assert server == TrainingMemory(168, 168, 2 * 168 + 2 * 4, 4 * 4 * 5)
    assert bottom.total_bytes == 80 + 80 + 168 + 128


class _Half(nn.Module):
    """Returns a view of its first four columns."""

    def forward(self, columns: Tensor) -> Tensor:
        return columns[:, :4]


def test_a_stretch_of_modules_costs_what_one_joined_module_costs() -> None:
    """Break it: add up the modules' activations, or count the storage behind a view."""
    modules = [
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), _Half()),
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 5), nn.Tanh()),
        nn.Linear(5, 7),
    ]
    chain = ChainMemory(modules, (3,), 2, adam)
    for start, end, by_hand in (
        (0, 1, 6 + 16),
        (1, 2, 8 + 10),
        (1, 3, 8 + 10),
        (0, 2, 6 + 16 + 10),
    ):
        joined = nn.Sequential(*modules[start:end])
        inputs = (3,) if start == 0 else (4,)
        assert chain.of(start, end) == part_memory([joined], inputs, 2, adam)[0]
        assert chain.of(start, end).activation_bytes == 4 * by_hand


def test_vit_nano_by_hand() -> None:
    """Break it: count a storage twice, leave one out, or take attention apart."""
    batch, patches, tokens, width, hidden, heads, blocks = 8, 16, 17, 64, 256, 4, 4
    model = load_model("vit-nano", num_labels=10)
    config: Any = model.config
    assert (config.hidden_size, config.num_hidden_layers) == (width, blocks)
    assert (config.intermediate_size, config.num_attention_heads) == (hidden, heads)
    state = batch * tokens * width
    statistics = 2 * batch * tokens  # mean and deviation of a layer norm
    attention = 4 * state + batch * heads * tokens  # queries, keys, values, output; log-sums
    projections = state + state  # inputs: of the first three, which share one, and of the last
    feed_forward = state + 2 * batch * tokens * hidden  # before and after the activation
    norms = 2 * (state + statistics)
    block = norms + attention + projections + feed_forward
    head = state + statistics + state  # the last norm, and the output that the classifier views
    images = batch * patches * 49
    found = part_memory([model], NANO, batch, adam)[0]
    # The output of attention is the input of its projection: saved once.
    numbers = images + blocks * (block - state) + head
    assert found.activation_bytes == 4 * numbers
    count = sum(parameter.numel() for parameter in model.parameters())
    assert found.parameter_bytes == found.gradient_bytes == 4 * count
    # Adam's two moments, and its count of steps for each tensor
    assert found.optimizer_bytes == 8 * count + 4 * len(list(model.parameters()))


MODELS = ["vit-nano", "qwen3-vl vision", "torchvision", "timm", "dinov2", "clip", "siglip"]
MODELS += ["beit-layers", "swin"]


def made(name: str) -> tuple[nn.Module, Sequence[int]]:
    model = zoo.make(name)
    images = zoo.images_of(model)
    return model, (images.channels, images.height, images.width)


@pytest.mark.parametrize("name", MODELS)
def test_activations_equal_those_of_a_real_step(name: str) -> None:
    """Break it: leave `FusedAttention` out."""
    model, shape = made(name)
    parts = split_model(model, [1])
    whole = join_parts(*parts).train()
    expected = saved_by(whole, torch.zeros(4, *shape))
    assert part_memory([whole], shape, 4, adam)[0].activation_bytes == expected > 0


@pytest.mark.parametrize("name", ["vit-nano", "swin", "qwen3-vl vision"])
def test_the_parts_add_up_to_the_whole(name: str) -> None:
    model, shape = made(name)
    whole = part_memory([join_parts(*split_model(model, [1]))], shape, 4, adam)[0]
    stages = len(stage_names(model))
    for cut in range(1, stages):
        split = split_model(model, [cut])
        assert together(part_memory(split, shape, 4, adam)) == whole
        client = part_memory([split.bottom, split.server_part()], shape, 4, adam)
        assert together(client) == whole


def test_a_later_cut_costs_the_client_more_and_the_server_less() -> None:
    found = [
        part_memory([s.bottom, s.server_part()], NANO, 8, adam)
        for s in (load_split_model("vit-nano", [cut]) for cut in range(1, 6))
    ]
    clients = [client.total_bytes for client, _ in found]
    servers = [server.total_bytes for _, server in found]
    assert sorted(set(clients)) == clients
    assert sorted(set(servers), reverse=True) == servers


def test_only_activations_grow_with_the_batch() -> None:
    model = load_model("vit-nano")
    one, two = (part_memory([model], NANO, size, adam)[0] for size in (8, 16))
    assert two.activation_bytes == 2 * one.activation_bytes
    assert (two.parameter_bytes, two.optimizer_bytes) == (one.parameter_bytes, one.optimizer_bytes)


@pytest.mark.parametrize("mode", ["head", "lora", "bottom-frozen"])
def test_frozen_parameters_cost_less(mode: Mode) -> None:
    free, frozen = load_split_model("vit-nano", [2]), load_split_model("vit-nano", [2])
    train_only(frozen, mode, cut_layer=2, lora=Lora(rank=1))
    for before, after in zip(
        part_memory(free, NANO, 8, adam), part_memory(frozen, NANO, 8, adam), strict=True
    ):
        assert after.gradient_bytes <= before.gradient_bytes
        assert after.optimizer_bytes <= before.optimizer_bytes
        assert after.total_bytes <= before.total_bytes
    bottom = part_memory(frozen, NANO, 8, adam)[0]
    if mode != "lora":  # nothing is saved without a gradient
        assert bottom.total_bytes == bottom.parameter_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimizer_state_equals_that_of_a_real_step(
    dtype: torch.dtype, optimizer: str, momentum: float
) -> None:
    config = Config.load({"optimizer": optimizer, "momentum": momentum})
    model = load_model("vit-nano", dtype=dtype)
    found = part_memory([model], NANO, 1, lambda p: optimizer_of(p, config))[0]
    real = optimizer_of(model.parameters(), config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    real.step()
    tensors = [v for s in real.state.values() for v in s.values() if isinstance(v, Tensor)]
    assert found.optimizer_bytes == sum(t.numel() * t.element_size() for t in tensors)
    times = {"sgd": 1 if momentum else 0}.get(optimizer, 2)
    assert found.optimizer_bytes // found.parameter_bytes == times


def test_copies_repeat_trainable_parameters_only() -> None:
    memory = TrainingMemory(
        parameter_bytes=100, gradient_bytes=30, optimizer_bytes=60, activation_bytes=7
    )
    assert memory.total_bytes == 197
    assert memory.total_with_copies(3) == 100 + 3 * (30 + 30 + 60 + 7)


def test_the_part_is_left_as_it_was() -> None:
    model = load_model("vit-nano")
    part_memory([model], input_shape=NANO, batch_size=2, make_optimizer=plain_sgd)
    assert not model.training
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert input_spec("vit-nano").height == 28


def test_a_part_may_begin_with_an_operation_in_place() -> None:
    """Its output is kept, as that of the same operation out of place. Break it: run on leaves."""

    def server(*, inplace: bool) -> TrainingMemory:
        parts = [nn.Linear(3, 5), nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(5, 7))]
        return part_memory(parts, (3,), 4, adam)[1]

    assert server(inplace=True) == server(inplace=False)
