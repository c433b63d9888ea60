"""A defence: Gaussian noise on the smashed data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedsplit.boundary import State, each
from fedsplit.split.defences import Defence

SIGMA = 0.1


class Noise(Defence):
    """Add N(0, 0.01) to every number."""

    def protect(self, smashed: State, draw: Callable[..., torch.Generator]) -> State:
        """Return the noisy tensors; the gradient passes unchanged."""
        random = draw("noise")
        return each(smashed, lambda t: t + SIGMA * torch.randn(t.shape, generator=random))
