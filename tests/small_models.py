"""Small models of three linear layers, as functions that `model.name` can name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsplit import SplitModel
from fedsplit.input_spec import InputSpec

SPEC = InputSpec(channels=1, height=10, width=10, mean=(0.5,), std=(0.5,))


class Bottom(nn.Module):
    def __init__(self, spec: InputSpec, *after: nn.Module) -> None:
        super().__init__()
        self.input_spec = spec
        pixels = spec.channels * spec.height * spec.width
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 12), *after)

    def forward(self, images: Tensor) -> Tensor:
        smashed: Tensor = self.layers(images)
        return smashed


def _model(
    num_labels: int,
    spec: InputSpec = SPEC,
    in_bottom: tuple[nn.Module, ...] = (),
    in_trunk: tuple[nn.Module, ...] = (),
) -> SplitModel:
    trunk = nn.Sequential(nn.ReLU(), *in_trunk, nn.Linear(12, 12), nn.ReLU())
    return SplitModel(Bottom(spec, *in_bottom), trunk, nn.Linear(12, num_labels))


def make(num_labels: int = 10) -> SplitModel:
    return _model(num_labels)


def make_resized_by_nearest(num_labels: int = 10) -> SplitModel:
    return _model(num_labels, InputSpec(1, 10, 10, (0.5,), (0.5,), resample=0))


def make_norm_in_bottom(num_labels: int = 10) -> SplitModel:
    return _model(num_labels, in_bottom=(nn.BatchNorm1d(12),))


def make_norm_in_trunk(num_labels: int = 10) -> SplitModel:
    return _model(num_labels, in_trunk=(nn.BatchNorm1d(12),))


def make_norm_over_positions(num_labels: int = 10) -> SplitModel:
    """Normalise 3 channels over 4 positions: one image has several values for each."""
    norm = (nn.Unflatten(1, (3, 4)), nn.BatchNorm1d(3), nn.Flatten())
    return _model(num_labels, in_bottom=norm)


def _small(model: SplitModel) -> SplitModel:
    """Make the bottom's images a hundredth as large."""
    first = next(layer for layer in model.bottom.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        for weight in first.parameters():
            weight.mul_(0.01)
    return model


def make_zeros_in_bottom(num_labels: int = 10) -> SplitModel:
    model = _model(num_labels)
    for weight in model.bottom.parameters():
        nn.init.zeros_(weight)
    return model


def make_small_norm_in_bottom(num_labels: int = 10) -> SplitModel:
    """Only in training is the output of the norm larger than its input."""
    return _small(make_norm_in_bottom(num_labels))


def make_small_norm_in_top(num_labels: int = 10) -> SplitModel:
    """Gradients of what a norm takes are the larger the smaller that is."""
    model = _small(_model(num_labels))
    top = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, num_labels))
    return SplitModel(model.bottom, nn.Sequential(nn.Linear(12, 12, bias=False)), top)


def make_growing(num_labels: int = 10) -> SplitModel:
    """Begin with small weights in all layers, and no norm."""
    model = _model(num_labels)
    for part in model:
        for weight in part.parameters():
            nn.init.normal_(weight, std=0.02)
    return model
