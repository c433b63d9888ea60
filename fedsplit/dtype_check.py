"""Check that this machine can train in the dtype of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fedsplit.boundary import State
from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.exchanged_state import copy_to_train
from fedsplit.initial_model import autocast_of
from fedsplit.input_spec import InputSpec
from fedsplit.models.stages import Part
from fedsplit.split.steps import score
from fedsplit.split.training import Training


def check_arithmetic(chain: Sequence[nn.Module], spec: InputSpec, config: Config) -> None:
    """Take a step on copies of the parts with two black images; refuse the config if it fails.

    Parameters
    ----------
    chain : Sequence[nn.Module]
        The whole model, in order.
    spec : InputSpec
        The images that it takes.
    config : Config
        With a dtype or an autocast other than the default.

    Raises
    ------
    ConfigError
        If an operation is missing for this dtype, or a weight does not survive one step in it.
    """
    # Eval mode, so that nothing is random.
    parts = [copy_to_train(part).eval() for part in chain]
    for part in parts:
        if isinstance(part, Part):
            part.autocast = autocast_of(config)
    weights = (named for part in parts for named in part.named_parameters())
    optimizer = Training.of_clients(config).make_optimizer(weights)
    images = torch.zeros(2, spec.channels, spec.height, spec.width, device=config.device)
    try:
        state: State = images
        for part in parts:
            state = part(state)
        assert isinstance(state, torch.Tensor)
        labels = torch.zeros(2, dtype=torch.int64, device=config.device)
        torch.autograd.backward(score(state, labels).loss)
        optimizer.step()
    except RuntimeError as error:
        raise _refused(config, " ".join(str(error).split())) from None
    trained = [w for part in parts for w in part.parameters() if w.requires_grad]
    if not all(bool(torch.isfinite(weight).all()) for weight in trained):
        raise _refused(config, "one step makes weights NaN or infinite")


def _refused(config: Config, reason: str) -> ConfigError:
    model = config.model
    key, dtype = ("dtype", model.dtype)
    if model.autocast != "none":
        key, dtype = "autocast", model.autocast
    return ConfigError(
        f"model.{key} = '{dtype}' cannot train this model on device = '{config.device}' with "
        f"optimizer = '{config.optimizer}' ({reason}). Use 'bfloat16', or "
        f"{'none' if key == 'autocast' else 'float32'!r}."
    )
