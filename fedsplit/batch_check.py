"""Refuse shards without a batch, or batches that a model with BatchNorm cannot train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import nn

from fedsplit.boundary import State
from fedsplit.config import Config
from fedsplit.data.loader import batch_sizes
from fedsplit.errors import ConfigError
from fedsplit.input_spec import InputSpec
from fedsplit.models.split import SplitModel
from fedsplit.models.stages import storage_free_copy


class _Refusal(NamedTuple):
    """Why a part cannot train on one image, and which layer refuses it."""

    reason: str
    layer: str


class Trained(NamedTuple):
    """What a run trains; the weights do not matter.

    Attributes
    ----------
    model : SplitModel
        The parts.
    spec : InputSpec
        The images that the model takes.
    added : Mapping[str, nn.Module]
        What the client rule adds to each client's part; they take the smashed data.
    """

    model: SplitModel
    spec: InputSpec
    added: Mapping[str, nn.Module]


def check_batch_size(config: Config, shard_sizes: Mapping[int, int]) -> None:
    """Refuse shards of which no batch is left. A smaller only batch is one, unless it is dropped.

    Parameters
    ----------
    config : Config
        The run's configuration.
    shard_sizes : Mapping[int, int]
        Client -> its training images, or those of all together.

    Raises
    ------
    ConfigError
        Names the smallest shard.
    """
    client, size = min(shard_sizes.items(), key=lambda item: item[1])
    if batch_sizes(size, config.batch_size, config.last_batch):
        return
    remedy = f"Set batch-size to at most {size}, or last-batch to 'keep'; or use" if size else "Use"
    raise ConfigError(
        f"With batch-size = {config.batch_size} and last-batch = '{config.last_batch}', client "
        f"{client} has nothing to train on: it has {size} training images. "
        f"{remedy} fewer clients or more images (data.max-train-samples), keep fewer for "
        "validation (data.validation-fraction), or divide them more evenly (data.partitioner, "
        "data.alpha, data.min-partition-size)."
    )


def check_single_images(
    trained: Callable[[], Trained],
    shard_sizes: Mapping[int, int],
    config: Config,
    *,
    pooled: bool = False,
    together: int = 1,
) -> None:
    """Refuse a run in which a client would train on one image where the model needs several.

    BatchNorm is the usual reason: it cannot normalise a single value. (Over an image's pixels or
    tokens it has several values, and takes one image.) The model is asked only if a step of one
    image can occur: storage-free copies of its parts run on the meta device in train mode.

    Parameters
    ----------
    trained : Callable[[], Trained]
        Returns what the run trains.
    shard_sizes : Mapping[int, int]
        Client -> its training images, without its validation split.
    config : Config
        The run's configuration.
    pooled : bool
        Whether the server trains on the images of all clients together.
    together : int
        Participants whose batches the server part computes as one; 1 = each batch alone.

    Raises
    ------
    ConfigError
        Names the client, its training images, and the layer that needs several images.
    """
    sizes = {0: sum(shard_sizes.values())} if pooled else shard_sizes
    steps = {
        client: batch_sizes(size, config.batch_size, config.last_batch)
        for client, size in sizes.items()
    }
    single = [client for client, of_client in steps.items() if 1 in of_client]
    if not single:
        return
    refusals = _refusals(trained())
    at_server = {"trunk"} if config.split.u_shaped else {"trunk", "top"}
    for client in single:
        # The last step of an epoch is the one in which the fewest others take part.
        shorter = sum(len(other) < len(steps[client]) for other in steps.values())
        accompanied = shorter < together - 1
        for part, refusal in refusals.items():
            if not (accompanied and part in at_server):
                holder = "all clients together" if pooled else f"client {client}"
                raise ConfigError(_message(holder, sizes[client], refusal, config))


def _message(holder: str, size: int, refusal: _Refusal, config: Config) -> str:
    where = f" in the layer '{refusal.layer}'" if refusal.layer else ""
    remedy = "Set last-batch to 'merge' or 'drop', or choose another batch-size."
    if config.batch_size == 1:
        remedy = "Set batch-size to at least 2."
    return (
        f"With batch-size = {config.batch_size} and last-batch = '{config.last_batch}', the "
        f"{size} training images of {holder} give a step of one image, but this model cannot "
        f"train on one image ({refusal.reason}{where}). {remedy}"
    )


def _refusals(trained: Trained) -> Mapping[str, _Refusal]:
    """Return the parts and added modules that train on two images but not on one.

    A model that trains on one image is run once.
    """
    model, spec, added = trained
    found: dict[str, _Refusal] = {}
    parts = [storage_free_copy(part) for part in model]

    def images(count: int) -> State:
        return torch.empty(count, spec.channels, spec.height, spec.width, device="meta")

    def two(until: int) -> State:
        """Return what two images are after some of the parts."""
        return reduce(lambda state, part: _run(part.eval(), state), parts[:until], images(2))

    one = images(1)
    for number, (name, part) in enumerate(zip(model._fields, parts, strict=True)):
        try:
            refusal, output = _train(part, one, partial(two, number))
            one = _run(part.eval(), one) if output is None else output
        except Exception:  # the error does not depend on the number of images
            break
        if refusal is not None:
            found[name] = refusal
        if name == "bottom":
            for key, module in added.items():
                refusal, _ = _train(storage_free_copy(module), one, partial(two, 1))
                if refusal is not None:
                    found[f"added module {key}"] = refusal
    return found


def _train(
    part: nn.Module, one: State, two: Callable[[], State]
) -> tuple[_Refusal | None, State | None]:
    """Run a part in train mode on one image; return why it cannot, or its output."""
    entered: list[str] = []
    hooks = []
    for name, module in part.train().named_modules():
        label = f"{name}: {type(module).__name__}"
        if name:
            hooks.append(module.register_forward_pre_hook(partial(_enter, entered, label)))
            hooks.append(module.register_forward_hook(partial(_leave, entered)))
    try:
        return None, _run(part, one)
    except Exception as error:
        layer = entered[-1] if entered else ""
        try:
            _run(part, two())
        except Exception:  # it does not train on any number of images here
            return None, None
        return _Refusal(" ".join(str(error).split()), layer), None
    finally:
        for hook in hooks:
            hook.remove()


def _enter(entered: list[str], label: str, *_: object) -> None:
    entered.append(label)


def _leave(entered: list[str], *_: object) -> None:
    entered.pop()


@torch.no_grad()
def _run(part: nn.Module, state: State) -> State:
    output: State = part(state)
    return output
