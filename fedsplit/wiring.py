"""What client and server both derive from a run's config: the wire, and the modules a rule adds."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from fedsplit.boundary import Boundary
from fedsplit.cache import OnceCache
from fedsplit.channel.frame import Kind
from fedsplit.config import Config
from fedsplit.data.loader import largest_batch
from fedsplit.errors import ConfigError
from fedsplit.initial_model import dtype_of
from fedsplit.input_spec import InputSpec
from fedsplit.models.boundaries import boundary
from fedsplit.models.resolved import ResolvedModel
from fedsplit.models.split import SplitModel, join_parts, split_model
from fedsplit.models.storage import without_storage
from fedsplit.seeding import seeded_init
from fedsplit.split.client_rules import ClientRule
from fedsplit.split.codecs import load_codec
from fedsplit.split.wire import Wire


@dataclass(frozen=True)
class _Key:
    """All that the boundaries of a model depend on."""

    model: ResolvedModel
    points: tuple[int, ...]
    u_shaped: bool
    dtype: torch.dtype
    num_labels: int
    spec: InputSpec


_boundaries: OnceCache[tuple[Boundary, Boundary | None]] = OnceCache(16)


def make_wire(
    config: Config, model: ResolvedModel, *, num_labels: int, spec: InputSpec, cut_gradient: bool
) -> Wire:
    """Return what crosses the channel in a run's steps.

    Parameters
    ----------
    config : Config
        The run's configuration.
    model : ResolvedModel
        The model of `config`.
    num_labels : int
        Classes.
    spec : InputSpec
        The images that the model takes.
    cut_gradient : bool
        Whether the server returns the cut gradient.

    Raises
    ------
    FedSplitError
        If there is no such codec, its frames do not tell the batch size, or the model's
        boundaries cannot be determined.
    """
    key = _Key(
        model=model,
        points=tuple(config.split.points),
        u_shaped=config.split.u_shaped,
        dtype=dtype_of(config),
        num_labels=num_labels,
        spec=spec,
    )
    smashed, output = _boundaries.get(key, lambda: _measure(key))
    wire = Wire(
        smashed=smashed,
        num_labels=num_labels,
        max_batch_size=largest_batch(config),
        output=output,
        cut_gradient=cut_gradient,
        output_gradient=config.split.server_trains,
        uplink=load_codec(config.codec.uplink, key="codec.uplink"),
        downlink=load_codec(config.codec.downlink, key="codec.downlink"),
        seed=config.seed,
    )
    if not wire.payloads[Kind.SMASHED_DATA].tells_batch_size:
        raise ConfigError(
            f"codec.uplink = '{config.codec.uplink}' packs a batch of any size to tensors of one "
            "length. Let the first axis of a tensor grow with every example."
        )
    return wire


def boundaries_of(
    model: SplitModel, spec: InputSpec, *, u_shaped: bool
) -> tuple[Boundary, Boundary | None]:
    """Return the boundary at the cut and, in the U-shaped topology, that after the trunk."""
    output = boundary(join_parts(model.bottom, model.trunk), spec) if u_shaped else None
    return boundary(model.bottom, spec), output


def _measure(key: _Key) -> tuple[Boundary, Boundary | None]:
    whole = copy.deepcopy(key.model.skeleton(key.num_labels))
    without_storage(whole, key.dtype)
    return boundaries_of(split_model(whole, key.points), key.spec, u_shaped=key.u_shaped)


def added_modules(
    rule: type[ClientRule], config: Config, *, smashed: Boundary, num_labels: int
) -> dict[str, nn.Module]:
    """Return the modules that a client rule adds, with the initial weights of the run.

    They are in the dtype and on the device of the client's part.
    """
    with seeded_init(config.seed, "added modules"):
        made = rule.added_modules(smashed, num_labels)
    return {
        name: module.to(device=config.device, dtype=dtype_of(config))
        for name, module in made.items()
    }
