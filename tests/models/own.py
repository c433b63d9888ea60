"""A bottom, a trunk and a top as a user writes them around a ViT frontend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsplit import (
    BaseBottomModel,
    BaseTopModel,
    BaseTrunkModel,
    SplitModel,
    load_split_model,
)
from fedsplit.boundary import State
from fedsplit.models import Stage, register_family


class Bottom(BaseBottomModel):
    def __init__(self, frontend: nn.Module) -> None:
        super().__init__()
        self.frontend = frontend

    def forward(self, images: Tensor) -> State:
        hidden: Tensor = self.frontend(images)
        # More than one tensor may cross, and a gradient comes back for each floating one.
        return {"tokens": hidden, "mean": hidden.mean(dim=1)}


class Trunk(BaseTrunkModel):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(64, 2, 96, dropout=0.0, batch_first=True)

    def forward(self, smashed: State) -> State:
        assert isinstance(smashed, dict)
        mixed: Tensor = self.mix(smashed["tokens"])
        return mixed[:, 0] + smashed["mean"]


class Top(BaseTopModel):
    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(64, num_labels)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, hidden: State) -> Tensor:
        assert isinstance(hidden, Tensor)
        logits: Tensor = self.classifier(hidden) * self.scale
        return logits


def make(num_labels: int = 10) -> SplitModel:
    return SplitModel(Bottom(load_split_model("vit-nano", [1]).bottom), Trunk(), Top(num_labels))


def make_with_fixed_positions(num_labels: int = 10) -> SplitModel:
    parts = make(num_labels)
    parts.bottom.get_parameter("frontend.vit.embeddings.position_embeddings").requires_grad_(False)
    return parts


def make_nonsense() -> int:
    return 3


class _Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def make_pair(num_labels: int = 10) -> SplitModel:
    return SplitModel(_Pair(), nn.Identity(), nn.Linear(784, num_labels))


def make_too_few(num_labels: int = 10) -> SplitModel:
    bottom = nn.Sequential(nn.Flatten(), nn.Linear(784, 64))
    return SplitModel(bottom, nn.ReLU(), nn.Linear(64, num_labels - 1))


def fail(num_labels: int = 10) -> SplitModel:
    raise OSError("no such table")


def make_tied(num_labels: int = 10) -> SplitModel:
    shared = nn.Linear(64, 64)
    bottom = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), shared)
    return SplitModel(bottom, nn.Sequential(nn.ReLU(), shared), nn.Linear(64, num_labels))


def make_with_arguments(width: int, num_labels: int = 10) -> SplitModel:
    raise NotImplementedError(width, num_labels)


def make_without_a_trunk() -> tuple[nn.Module, None, nn.Module]:
    return nn.Flatten(), None, nn.Linear(784, 10)


def make_of_a_missing_file() -> SplitModel:
    with open("/no/such/config.yaml") as file:
        raise NotImplementedError(file)


class Whole(nn.Module):
    """A model of a family of one's own; `make_whole` registers it."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.head = nn.Linear(8, num_labels)


def make_whole(num_labels: int = 2) -> nn.Module:
    register_family(
        "whole",
        model_class=Whole,
        stages=lambda _: [
            Stage("stem", ("stem",), lambda root, images: root.stem(images)),
            Stage("head", ("head",), lambda root, hidden: root.head(hidden)),
        ],
        library="custom",
    )
    return Whole(num_labels)
