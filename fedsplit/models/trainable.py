"""What of a model trains: everything, all but the bottom, adapters (LoRA), or the head alone.

Freezing sets `requires_grad = False`; `fedsplit.exchanged_state` says what follows from it.
Adapters are those of the library PEFT, which is imported only when they are used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from torch import nn

from fedsplit.errors import ModelError
from fedsplit.exchanged_state import tensors_digest
from fedsplit.models.registry import family_of
from fedsplit.models.split import SplitModel
from fedsplit.models.stages import Part, find, graft

_logger = logging.getLogger(__name__)
_ADAPTED = ".base_layer."
"""What PEFT puts into the names of a layer's own weights."""

Mode = Literal["all", "head", "lora", "bottom-frozen"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: W x + alpha / rank * B A dropout(x), where A and B train.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

    Attributes
    ----------
    rank : int
        Rows of A and columns of B.
    alpha : int
        Scaling: an adapter's output is multiplied by alpha / rank.
    dropout : float
        Share of an adapter's input that is zeroed in training, drawn from torch's global
        generator.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0


def train_only(parts: Iterable[nn.Module], mode: Mode, *, cut_layer: int, lora: Lora) -> None:
    """Freeze what does not train, and insert adapters in mode ``lora``.

    Parameters
    ----------
    parts : Iterable[nn.Module]
        Some or all parts of a model, or the whole model as one part. They are changed in place,
        with everything that shares their modules, so call this before parts are joined or held.
    mode : Mode
        ``all``: freeze only the family's `unused_weights`, which every mode freezes.
        ``bottom-frozen``: freeze the stages before `cut_layer`. ``head``: freeze all stages but
        the last. ``lora``: freeze everything but the classifier, and give every linear layer of
        the blocks an adapter, drawn from torch's global generator. Torch's own
        `nn.MultiheadAttention` gets none, and a warning says so.
    cut_layer : int
        Number of stages of the bottom.
    lora : Lora
        The adapters.

    Raises
    ------
    ModelError
        If the mode is ``lora`` and PEFT is not installed.
    """
    without = 0
    for part in parts:
        assert isinstance(part, Part)
        if mode == "lora":
            _adapt(part, lora)
            without += sum(
                isinstance(module, nn.MultiheadAttention)
                for name, module in part.named_modules()
                if not name.startswith(unused_weights_of(part))
            )
        elif mode != "all":
            last = len(part.chain.stages) - 1
            _freeze(part, before=cut_layer if mode == "bottom-frozen" else last)
        freeze_unused(part)
    if without:
        _logger.warning(
            "LoRA leaves out %d modules: torch's nn.MultiheadAttention gets no adapter. Only the "
            "other linear layers of the blocks are adapted.",
            without,
        )


def unused_weights_of(part: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of weights that the output of a part's model does not use."""
    assert isinstance(part, Part)
    return family_of(part.chain.shell).unused_weights


def freeze_unused(part: Part) -> None:
    """Freeze the weights that the model's output does not use."""
    unused = unused_weights_of(part)
    for name, parameter in part.named_parameters():
        if name.startswith(unused):
            parameter.requires_grad_(False)


def merge_adapters(parts: Iterable[nn.Module]) -> None:
    """Add the adapters to the weights they belong to, and leave plain modules."""
    for part in parts:
        for path, layer in list(part.named_modules()):
            if hasattr(layer, "lora_A") and isinstance(layer, nn.Module):
                adapted: Any = layer
                adapted.merge()
                graft(part, path, adapted.get_base_layer())


def layer_rates(model: SplitModel, decay: float) -> tuple[tuple[str, float], ...]:
    """Return the factor of the learning rate for each path of a model's stages.

    The head has factor 1, and each stage `decay` times that of the stage after it (Clark et al.,
    "ELECTRA", ICLR 2020, appendix A). Empty, if `decay` is 1.
    """
    assert isinstance(model.top, Part)
    stages = model.top.chain.stages
    last = len(stages) - 1
    return tuple(
        (path, decay ** (last - index))
        for index, stage in enumerate(stages)
        for path in stage.paths
        if decay != 1.0
    )


def weights_digest(model: SplitModel) -> str:
    """Return the SHA-256 of a model's weights before training, as its checkpoint has them.

    Neither adapters nor the classifier are in it, which the seed draws, so it is the same for
    every seed, cut and mode of training.
    """
    state = {
        name.replace(_ADAPTED, "."): tensor
        for part in model
        for name, tensor in part.state_dict().items()
        if "lora_" not in name
    }
    assert isinstance(model.top, Part)
    chain = model.top.chain
    head = family_of(chain.shell).head or chain.stages[-1].paths
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    return tensors_digest(kept)


def load_peft() -> ModuleType:
    """Import PEFT.

    Raises
    ------
    ModelError
        If it is not installed, or too old.
    """
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            f"split.trainable = 'lora' needs the library 'peft', which cannot be imported: "
            f"{error}. Install or upgrade it: pip install -U peft."
        ) from None
    return peft


def _freeze(part: Part, *, before: int) -> None:
    for stage in part.stages[: max(0, before - part.start)]:
        for path in stage.paths:
            find(part, path).requires_grad_(False)


def _adapt(part: Part, lora: Lora) -> None:
    part.requires_grad_(False)
    targets = list(_linear_layers(part))
    if targets:
        peft = load_peft()
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
        )
        peft.inject_adapter_in_model(config, part)
        del part.peft_config  # PEFT's record of its work, which copies of parts must not carry
    _train_classifier(part)


def _train_classifier(part: Part) -> None:
    """Let the classifier train: the weights that the family names, or all of the head."""
    head = part.chain.stages[-1].paths if part.end == len(part.chain.stages) else ()
    inside = [(n, p) for n, p in part.named_parameters() if n.startswith(tuple(head))]
    named = [p for n, p in inside if head and n.startswith(family_of(part.chain.shell).head)]
    for parameter in named or ([p for _, p in inside] if head else []):
        parameter.requires_grad_()


def _linear_layers(part: Part) -> Iterator[str]:
    """Yield the paths of the linear layers of the blocks: neither embeddings nor head."""
    last = len(part.chain.stages) - 1
    for index, stage in enumerate(part.stages, part.start):
        if not 0 < index < last:
            continue
        for path in stage.paths:
            item = find(part, path)
            if isinstance(item, nn.Module):
                for name, layer in item.named_modules(prefix=path):
                    parent = find(part, name.rpartition(".")[0]) if "." in name else part
                    # torch's own attention gets no adapter. It reads its projections' weights and
                    # does not call them as modules, and PEFT's layer for it cannot be used: it
                    # adds the adapters to the frozen weights and takes them off again in every
                    # forward pass, which changes the last bits of these, and it adds that of the
                    # output projection twice.
                    if isinstance(layer, nn.Linear) and not isinstance(
                        parent, nn.MultiheadAttention
                    ):
                        yield name
