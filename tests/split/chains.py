"""A tiny ViT of 2 blocks, cut into the parts of a split server and its clients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from fedsplit.config import Config
from fedsplit.input_spec import InputSpec
from fedsplit.models.boundaries import smashed_spec
from fedsplit.models.split import SplitModel, join_parts, split_model
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.wire import Wire
from tests.split.toys import (
    BATCH_SIZE,
    NUM_LABELS,
    Client,
    Weights,
    settings_of,
    weights_of,
    wire_of,
)
from tests.split.ushaped import TopClient, seeded

Points = tuple[int, ...]
"""One cut: the vanilla topology. Two: the U-shaped one, whose top begins at the second."""

POINTS: list[Points] = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)]
"""Every cut of stages 0 embeddings, 1 and 2 blocks, 3 head that leaves the server a stage."""

SHAPE = (1, 4, 4)
_SPEC = InputSpec(*SHAPE, mean=(0.5,), std=(0.5,))


@cache
def _whole() -> nn.Module:
    values: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "image_size": 4,
        "patch_size": 2,
        "num_channels": 1,
        "num_labels": NUM_LABELS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    # In double precision a fault cannot pass for rounding. Weights are drawn at random, because
    # biases start at 0 and norms at 1, so that fresh blocks are almost the identity.
    return seeded(ViTForImageClassification(ViTConfig(**values)).double().train())


def whole_of() -> nn.Module:
    """Return the model, untrained, and the same each time."""
    return copy.deepcopy(_whole())


def u_shaped(points: Points) -> bool:
    return len(points) == 2


def serving_chain(
    kind: type[UpdateRule], points: Points, config: Config | None = None
) -> SplitServer:
    """Return a server with this rule and the part behind the cut."""
    model, cut = _split(points)
    server_part = copy.deepcopy(model.trunk if u_shaped(points) else model.server_part())
    rule = kind(server_part, settings_of(config))
    return SplitServer(rule=rule, wire=cut)


def client_of(
    address: str,
    token: str,
    points: Points,
    *,
    held: Mapping[str, Tensor] | None = None,
    config: Config | None = None,
) -> Client:
    """Return a participant with a bottom and, in the U-shaped topology, a top."""
    model, cut = _split(points)
    bottom, top = copy.deepcopy(model.bottom), copy.deepcopy(model.top)
    if held is not None:
        for part in (bottom, top) if u_shaped(points) else (bottom,):
            part.load_state_dict({name: held[name] for name in part.state_dict()})
    if u_shaped(points):
        return TopClient(address, token, bottom=bottom, top=top, cut=cut, config=config)
    return Client(address, token, bottom=bottom, cut=cut, config=config)


def held_by(client: Client) -> Weights:
    """Return the weights of all that a client holds, under the whole model's names."""
    top = weights_of(client.top) if isinstance(client, TopClient) else {}
    return weights_of(client.bottom) | top


@cache
def _split(points: Points) -> tuple[SplitModel, Wire]:
    model = split_model(whole_of(), points)
    until_top = join_parts(model.bottom, model.trunk)
    cut = wire_of(
        smashed_spec(model.bottom, _SPEC),
        NUM_LABELS,
        BATCH_SIZE,
        output=smashed_spec(until_top, _SPEC) if u_shaped(points) else None,
    )
    return model, cut
