"""Toys of the U-shaped topology: the parts of `toys`, cut once more before the top."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedsplit.boundary import TensorSpec
from fedsplit.config import Config
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.steps import score
from fedsplit.split.wire import Names, Wire
from tests.split.toys import (
    BATCH_SIZE,
    CUT,
    NUM_LABELS,
    TREE_CUT,
    Batch,
    Client,
    Weights,
    bottom_of,
    config_of,
    optimizer_of,
    server_part_of,
    settings_of,
    weights_of,
    wire_of,
)

U_CUT = wire_of(
    CUT.smashed.tensors,
    NUM_LABELS,
    BATCH_SIZE,
    output={"hidden": TensorSpec((1, 7), torch.float32)},
)
U_TREE_CUT = wire_of(
    TREE_CUT.smashed.tensors,
    NUM_LABELS,
    BATCH_SIZE,
    output={
        "z_mixed": TensorSpec((1, 9), torch.float32),
        "place": TensorSpec((1,), torch.int64),
        "idle": TensorSpec((1, 2, 3), torch.float32),
        "a_tap": TensorSpec((1, 4), torch.float32),
    },
)


class TreeTrunk(nn.Module):
    """Returns several tensors out of alphabetical order; one of integers, one unused by the top."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(2, 4)
        self.mix = nn.Linear(8, 9)
        self.idle = nn.Linear(4, 6)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = state["z_hidden"] + self.places(state["place"])
        return {
            "z_mixed": self.mix(torch.cat([hidden, state["a_tap"]], dim=1)).tanh(),
            "place": 1 - state["place"],
            "idle": self.idle(hidden).reshape(-1, 2, 3),
            "a_tap": state["a_tap"].tanh(),
        }


class TreeTop(nn.Module):
    """Uses floats and integers of what the trunk gives."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(2, NUM_LABELS)
        self.head = nn.Linear(13, NUM_LABELS)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        floats = [tensor for name, tensor in state.items() if name in ("z_mixed", "a_tap")]
        logits: Tensor = self.head(torch.cat(floats, dim=1)) + self.places(state["place"])
        return logits


def seeded(module: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.4 * torch.randn(weight.shape, generator=random))
    return module


def trunk_of(*, tree: bool = False) -> nn.Module:
    if tree:
        return seeded(TreeTrunk())
    whole = server_part_of()
    assert isinstance(whole, nn.Sequential)
    return whole[:3]


def top_of(*, tree: bool = False) -> nn.Module:
    if tree:
        return seeded(TreeTop())
    whole = server_part_of()
    assert isinstance(whole, nn.Sequential)
    return whole[3]


def u_serving(
    kind: type[UpdateRule], config: Config | None = None, *, tree: bool = False
) -> SplitServer:
    """Return a server of this rule that holds a trunk."""
    rule = kind(trunk_of(tree=tree), settings_of(config))
    return SplitServer(rule=rule, wire=U_TREE_CUT if tree else U_CUT)


def whole_server_part(trunk: nn.Module, top: Weights) -> Weights:
    """Name trunk and top as in the vanilla topology's server part (toys without trees)."""
    return weights_of(trunk) | {f"3.{name}": tensor for name, tensor in top.items()}


class TopClient(Client):
    """A participant with a bottom and a top."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        bottom: nn.Module,
        top: nn.Module,
        cut: Wire,
        config: Config | None = None,
        names: Names = (),
    ) -> None:
        super().__init__(address, token, bottom=bottom, config=config, cut=cut, names=names)
        self.top = top
        self.between_calls: Callable[[], object] = lambda: None
        self.optimizer = optimizer_of(
            [*self.bottom.parameters(), *self.top.parameters()],
            config_of() if config is None else config,
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss; its backward pass is what trains the server."""
        images, labels = batch
        return score(self.top(self.session.trunk(self.bottom(images))), labels).loss

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        loss = self.forward(batch)
        self.between_calls()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.losses.append(loss.item())


class UClient(TopClient):
    """A participant with the toys' bottom and top."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        bottom: Weights | None = None,
        top: Weights | None = None,
        config: Config | None = None,
        tree: bool = False,
    ) -> None:
        own, own_top = bottom_of(tree=tree), top_of(tree=tree)
        if bottom is not None:
            own.load_state_dict(bottom)
        if top is not None:
            own_top.load_state_dict(top)
        cut = U_TREE_CUT if tree else U_CUT
        super().__init__(address, token, bottom=own, top=own_top, cut=cut, config=config)
