from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.errors import ModelError
from fedsplit.exchanged_state import copy_to_train, exchanged, trains
from fedsplit.models import SplitModel, join_parts, load_split_model, save_model, split_model
from fedsplit.models.loading import input_spec
from fedsplit.models.trainable import (
    Lora,
    Mode,
    load_peft,
    merge_adapters,
    train_only,
    weights_digest,
)
from fedsplit.seeding import seeded_init
from tests.models.families import library_zoo, zoo

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([1, 5, 9])


def _model(mode: Mode, points: tuple[int, ...] = (1,), *, rank: int = 3) -> SplitModel:
    with seeded_init(3, "model"):
        model = load_split_model("vit-nano", points)
    with seeded_init(3, "adapters"):
        train_only(model, mode, cut_layer=points[0], lora=Lora(rank=rank))
    return model


def _trained(model: SplitModel) -> set[str]:
    """Return the stages in which anything trains, by their first words."""
    names = [name for part in model for name in exchanged(part)]
    return {".".join(n.split(".")[:3]) if "layers" in n else n.split(".")[-2] for n in names}


@pytest.mark.parametrize(
    ("mode", "cut", "stages"),
    [
        ("bottom-frozen", 1, {f"vit.layers.{i}" for i in range(4)} | {"layernorm", "classifier"}),
        ("bottom-frozen", 3, {"vit.layers.2", "vit.layers.3", "layernorm", "classifier"}),
        ("head", 2, {"layernorm", "classifier"}),
        ("lora", 2, {f"vit.layers.{i}" for i in range(4)} | {"classifier"}),
    ],
)
def test_what_trains(mode: Mode, cut: int, stages: set[str]) -> None:
    """Break it: count the cut from the part's first stage."""
    model = _model(mode, (cut,))
    assert _trained(model) == stages
    assert trains(model.bottom) == (mode == "lora")
    whole = _model("all", (cut,))
    joined = join_parts(*whole)
    if mode != "lora":  # the whole as one part is frozen at the same places
        train_only([joined], mode, cut_layer=cut, lora=Lora())
        assert set(exchanged(joined)) == {name for part in model for name in exchanged(part)}


def test_all_changes_nothing() -> None:
    model = _model("all")
    assert all(list(exchanged(part)) == list(part.state_dict()) for part in model)


def test_only_adapters_and_the_classifier_train() -> None:
    bottom, trunk, top = _model("lora", (1,))
    assert exchanged(bottom) == {}
    assert all("lora_" in name for name in exchanged(trunk))
    assert list(exchanged(top)) == ["classifier.weight", "classifier.bias"]
    # Six linear layers in each of four blocks, rank 3, two matrices each.
    per_block = 3 * (4 * (64 + 64) + 2 * (64 + 256))
    assert sum(t.numel() for t in exchanged(trunk).values()) == 4 * per_block


def _gradients(parts: list[nn.Module]) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for part in parts
        for name, parameter in part.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("cut", [2, 4])
def test_adapters_pass_the_gradient_through_the_cut(cut: int) -> None:
    """The cut gradient, and every adapter's, are those of the whole model.

    Break it: detach what a part with adapters is given.
    """
    model = _model("lora", (cut,))
    with torch.no_grad():  # B is 0 at the start, and with it the gradient of A
        for part in model:
            for name, parameter in part.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    whole = copy_to_train(join_parts(*model))
    torch.autograd.backward(cross_entropy(whole(IMAGES), LABELS))

    smashed = model.bottom(IMAGES)
    leaf = smashed.detach().requires_grad_()
    torch.autograd.backward(cross_entropy(model.server_part()(leaf), LABELS))
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0
    torch.autograd.backward(smashed, leaf.grad)

    expected, found = _gradients([whole]), _gradients(list(model))
    assert set(found) == set(expected) == set(exchanged(whole))
    assert all(torch.allclose(found[n], expected[n], rtol=1e-5, atol=1e-8) for n in expected)
    assert all(found[n].abs().max() > 0 for n in found if ".k_proj.lora_A" not in n)


def test_merged_adapters_load_with_plain_transformers(tmp_path: Path) -> None:
    """Break it: drop the adapters instead of adding them."""
    from transformers import ViTForImageClassification

    model = _model("lora", (2,))
    with torch.no_grad():
        for part in model:
            for name, parameter in part.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.02)
        before = join_parts(*model)(IMAGES)
        merge_adapters(model)
        save_model(model.merge(), input_spec("vit-nano"), tmp_path)
        loaded: Any = ViTForImageClassification.from_pretrained(tmp_path)
        after = loaded.eval()(IMAGES).logits
        plain = join_parts(*_model("all", (2,)))(IMAGES)
    assert torch.allclose(after, before, atol=1e-5)
    assert (plain - before).abs().max() > 1e-2
    assert set(loaded.state_dict()) == set(join_parts(*_model("all")).state_dict())


def test_the_digest_of_the_weights_is_that_of_the_checkpoint() -> None:
    """Break it: leave the classifier in, or PEFT's names."""
    plain = weights_digest(_model("all"))
    assert weights_digest(_model("lora", (2, 4))) == weights_digest(_model("head", (3,))) == plain
    model = _model("all")
    with torch.no_grad():
        for name, parameter in model.top.named_parameters():
            if name.startswith("classifier."):
                parameter.add_(1)
    assert weights_digest(model) == plain
    with torch.no_grad():
        next(model.trunk.parameters()).view(-1)[-1].add_(1e-3)
    assert weights_digest(model) != plain


def test_torchs_own_attention_gets_no_adapter_and_this_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Break it: adapt its projections, which it does not call as modules."""
    parts = split_model(library_zoo.make("torchvision"), [2])
    train_only(parts, "lora", cut_layer=2, lora=Lora())
    adapted = {n.split(".lora_")[0] for part in parts for n in exchanged(part) if "lora_" in n}
    assert adapted == {
        f"encoder.layers.encoder_layer_{block}.mlp.{layer}" for block in (0, 1) for layer in (0, 3)
    }
    (record,) = caplog.records
    assert "leaves out 2 modules: torch's nn.MultiheadAttention" in record.getMessage()
    _model("lora")
    # SigLIP's pooling head has one, and the output of the model does not use it.
    train_only(split_model(zoo.make("siglip"), [1]), "lora", cut_layer=1, lora=Lora())
    assert caplog.text.count("LoRA leaves out") == 1


def test_adapters_have_the_dtype_of_their_layer() -> None:
    with seeded_init(3, "model"):
        model = load_split_model("vit-nano", [1], dtype=torch.bfloat16)
    train_only(model, "lora", cut_layer=1, lora=Lora())
    assert {p.dtype for part in model for p in part.parameters()} == {torch.bfloat16}


def test_without_peft_everything_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert trains(_model("head").top)
    with pytest.raises(ModelError, match=r"'lora' needs the library 'peft'.* pip install -U peft"):
        load_peft()
