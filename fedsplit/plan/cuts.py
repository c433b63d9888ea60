"""What each cut of a model costs client, server and channel, without loading its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsplit.boundary import Boundary
from fedsplit.config import Config
from fedsplit.errors import ConfigError, FedSplitError, ModelError
from fedsplit.exchanged_state import exchanged, trains
from fedsplit.input_spec import InputSpec
from fedsplit.links import Link
from fedsplit.models.boundaries import boundaries
from fedsplit.models.resolved import resolve
from fedsplit.models.split import (
    SplitModel,
    hold_parts,
    split_model,
    stage_names,
    stage_parts,
)
from fedsplit.models.stages import storage_free_copy
from fedsplit.models.storage import without_storage
from fedsplit.results.flops import count_parameters, part_flops
from fedsplit.results.memory import ChainMemory, together
from fedsplit.split.traffic import step_traffic, stream_traffic
from fedsplit.split.training import Training
from fedsplit.split.wire import CUT_PREFIX, Wire

MAX_FRAME_BYTES = 2**31 - 1
"""The longest protobuf message."""


@dataclass(frozen=True)
class Setting:
    """The question that a plan answers.

    Attributes
    ----------
    model : str
        The name of the model, as for `load_split_model`.
    batch_size : int
        Images per step.
    dtype : str
        The dtype of weights and of tensors at the cut: ``float32``, ``bfloat16`` or ``float16``.
    image_size : int
        Height and width of the images in pixels; 0 = the model's own size.
    trust : bool
        As `model.trust`.
    num_labels : int | None
        The number of classes; None = that of the model.
    topology : {"vanilla", "u-shaped"}
        Whether labels and head are at the server or at the client.
    links : Mapping[str, Link]
        Name -> the client's link to the server.
    samples_per_client : int
        Images that a client trains on in a round, once each.
    client_gflops, server_gflops : float
        The sustained speed of each side, in 10^9 floating-point operations per second.
    """

    model: str
    batch_size: int = 32
    dtype: str = "float32"
    image_size: int = 0
    trust: bool = False
    num_labels: int | None = None
    topology: Literal["vanilla", "u-shaped"] = "vanilla"
    links: Mapping[str, Link] = field(default_factory=dict)
    samples_per_client: int = 500
    client_gflops: float = 50.0
    server_gflops: float = 1000.0

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes of a round: full batches, then the rest."""
        full, rest = divmod(self.samples_per_client, self.batch_size)
        return [self.batch_size] * full + [rest] * (rest > 0)


@dataclass(frozen=True)
class CutPlan:
    """The costs of one cut: the keys of a plan's JSON, which docs/plan.md explains."""

    cut_layer: int
    last_client_stage: str
    client_parameters: int
    server_parameters: int
    client_flops_per_sample: int
    server_flops_per_sample: int
    client_activation_bytes: int
    server_activation_bytes: int
    client_memory_bytes: int
    server_memory_bytes: int
    smashed_bytes_per_step: int
    cut_gradient_bytes_per_step: int
    uplink_bytes_per_step: int
    downlink_bytes_per_step: int
    uplink_bytes_per_sample: float
    downlink_bytes_per_sample: float
    sync_bytes: int
    communication_seconds: dict[str, float]
    round_seconds: dict[str, float]


@dataclass(frozen=True)
class ModelPlan:
    """All cuts of a model, in order, and the images that the model takes."""

    setting: Setting
    spec: InputSpec
    cuts: list[CutPlan]


def plan_model(setting: Setting) -> ModelPlan:
    """Return what each cut of a model costs, without loading or allocating weights.

    Raises
    ------
    FedSplitError
        If the config of the model cannot be loaded, the model does not take images, or a frame
        would be longer than the longest protobuf message.
    """
    resolved = resolve(setting.model, image_size=setting.image_size, trust=setting.trust)
    model = storage_free_copy(resolved.skeleton(setting.num_labels))
    without_storage(model, getattr(torch, setting.dtype))
    spec = resolved.input_spec()
    try:
        stages = _Stages(setting, model, spec)
        # In the U-shaped topology, a trunk of at least one stage stays at the server.
        last = len(stages.names) - (2 if setting.topology == "u-shaped" else 1)
        cuts = [_cut(setting, stages, split_model(model, [cut]), cut) for cut in range(1, last + 1)]
    except FedSplitError:
        raise
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"The model '{setting.model}' cannot be run on images of {spec.channels}x"
            f"{spec.height}x{spec.width} alone ({reason}). If it is not an image classifier, "
            "give --num-labels to make it one."
        ) from None
    return ModelPlan(setting, spec, cuts)


class _Stages:
    """What each stage of a model costs, measured once for all cuts."""

    def __init__(self, setting: Setting, model: nn.Module, spec: InputSpec) -> None:
        parts = stage_parts(model)
        shape = (spec.channels, spec.height, spec.width)
        self.names = stage_names(model)
        self.flops = part_flops(parts, shape)
        self.memory = ChainMemory(parts, shape, setting.batch_size, _default_optimizer)
        self.boundaries = boundaries(parts, spec)


def wire_of(
    model: SplitModel, smashed: Boundary, output: Boundary | None, setting: Setting
) -> Wire:
    """Return what crosses the channel at a cut. Labels have no upper bound here."""
    return Wire(
        smashed=smashed,
        num_labels=setting.num_labels or 0,
        max_batch_size=setting.batch_size,
        output=output,
        cut_gradient=trains(model.bottom),
    )


def _cut(setting: Setting, stages: _Stages, model: SplitModel, cut_layer: int) -> CutPlan:
    u_shaped = setting.topology == "u-shaped"
    last = len(stages.names) - u_shaped  # where the server's stages end
    at_client = [True, False, u_shaped]
    parameters = [count_parameters(part) for part in model]
    client_memory = together(
        stages.memory.of(start, end)
        for start, end in ((0, cut_layer), (last, len(stages.names)))
        if start < end
    )
    server_memory = stages.memory.of(cut_layer, last)
    server_flops = sum(stages.flops[cut_layer:last])
    client_flops = sum(stages.flops) - server_flops
    held = hold_parts(model.bottom, model.top) if u_shaped else model.bottom
    sync_bytes = _num_bytes(exchanged(held).values())
    client_parameters, server_parameters = _sums(parameters, at_client)
    output = stages.boundaries[-2] if u_shaped else None
    wire = wire_of(model, stages.boundaries[cut_layer - 1], output, setting)
    frames = wire.step(setting.batch_size)
    smashed = [t for n, t in frames.uplink[0].tensors.items() if n.startswith(CUT_PREFIX)]
    gradient = [t for n, t in frames.downlink[-1].tensors.items() if n.startswith(CUT_PREFIX)]
    _check_length(max(_num_bytes(f.tensors.values()) for f in (*frames.uplink, *frames.downlink)))
    step = step_traffic(wire, setting.batch_size).traffic
    seconds = _communication_seconds(setting, wire, sync_bytes)
    computing = setting.samples_per_client * (
        client_flops / (1e9 * setting.client_gflops) + server_flops / (1e9 * setting.server_gflops)
    )
    return CutPlan(
        cut_layer=cut_layer,
        last_client_stage=stages.names[cut_layer - 1],
        client_parameters=client_parameters,
        server_parameters=server_parameters,
        client_flops_per_sample=client_flops,
        server_flops_per_sample=server_flops,
        client_activation_bytes=client_memory.activation_bytes,
        server_activation_bytes=server_memory.activation_bytes,
        client_memory_bytes=client_memory.total_bytes,
        server_memory_bytes=server_memory.total_bytes,
        smashed_bytes_per_step=_num_bytes(smashed),
        cut_gradient_bytes_per_step=_num_bytes(gradient),
        uplink_bytes_per_step=step.uplink_bytes,
        downlink_bytes_per_step=step.downlink_bytes,
        uplink_bytes_per_sample=step.uplink_bytes / setting.batch_size,
        downlink_bytes_per_sample=step.downlink_bytes / setting.batch_size,
        sync_bytes=sync_bytes,
        communication_seconds=seconds,
        round_seconds={name: computing + time for name, time in seconds.items()},
    )


def _communication_seconds(setting: Setting, wire: Wire, sync_bytes: int) -> dict[str, float]:
    """Return the time of a round on each link, as a run's `simulated_communication_seconds`."""
    traffic, messages = stream_traffic(wire, setting.batch_sizes)
    return {
        name: link.seconds(
            uplink_bytes=traffic.uplink_bytes + sync_bytes,
            downlink_bytes=traffic.downlink_bytes + sync_bytes,
            uplink_messages=messages + 1,
            downlink_messages=messages + 1,
        )
        for name, link in setting.links.items()
    }


def _check_length(num_bytes: int) -> None:
    if num_bytes > MAX_FRAME_BYTES:
        raise ConfigError(
            f"A frame would hold {num_bytes:,} bytes of tensors, but a message of the channel can "
            f"have at most {MAX_FRAME_BYTES:,} bytes. Use a smaller batch size."
        )


def _sums(numbers: list[int], at_client: list[bool]) -> tuple[int, int]:
    client = sum(n for n, held in zip(numbers, at_client, strict=True) if held)
    return client, sum(numbers) - client


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return Training.of_clients(Config()).make_optimizer(("", weight) for weight in parameters)
