from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedsplit.exchanged_state import (
    copy_to_train,
    exchanged,
    frozen_digest,
    load_exchanged,
    rest_frozen,
    trains,
)


def _weight(net: nn.Module, name: str) -> Tensor:
    tensor: Tensor = net.state_dict(keep_vars=True)[name]
    return tensor


def _net() -> nn.Sequential:
    """A frozen linear layer and batch norm, then both once more, which train."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    for index in (0, 1):
        net[index].requires_grad_(False)
    return net


def test_all_of_a_plain_module_is_exchanged_in_its_order() -> None:
    net = _net().requires_grad_()
    assert list(exchanged(net)) == list(net.state_dict())
    assert frozen_digest(net) == ""


def test_parameters_that_train_and_the_buffers_beside_them_are_exchanged() -> None:
    """Break it: exchange every buffer, and a frozen batch norm's statistics are averaged."""
    names = list(exchanged(_net()))
    assert names == [
        *("2.weight", "2.bias", "3.weight", "3.bias"),
        *("3.running_mean", "3.running_var", "3.num_batches_tracked"),
    ]
    assert trains(_net())
    assert not trains(_net()[:2])


def test_a_frozen_batch_norm_keeps_its_statistics_in_training() -> None:
    """Break it: leave out `rest_frozen`."""
    net = _net().train()
    rest_frozen(net)
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(5, 2))
    changed = [name for name, t in net.state_dict().items() if not torch.equal(t, before[name])]
    assert changed == ["3.running_mean", "3.running_var", "3.num_batches_tracked"]


def test_only_what_is_exchanged_is_loaded() -> None:
    net, other = _net(), _net()
    frozen = _weight(net, "0.weight").clone()
    load_exchanged(net, exchanged(other))
    assert torch.equal(_weight(net, "2.weight"), _weight(other, "2.weight"))
    assert torch.equal(_weight(net, "0.weight"), frozen)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\): 2.weight"):
        load_exchanged(net, {k: v for k, v in exchanged(other).items() if k != "2.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\): 0.weight"):
        load_exchanged(net, {**exchanged(other), "0.weight": frozen})


def test_a_copy_shares_what_is_frozen_only() -> None:
    """Break it: copy everything; 200 clients then hold 200 frozen bottoms."""
    net = _net()
    copied = copy_to_train(net)
    assert _weight(copied, "0.weight") is _weight(net, "0.weight")
    assert _weight(copied, "1.running_mean") is _weight(net, "1.running_mean")
    assert _weight(copied, "2.weight") is not _weight(net, "2.weight")
    assert torch.equal(_weight(copied, "2.weight"), _weight(net, "2.weight"))


def test_the_digest_is_of_what_is_frozen() -> None:
    net = _net()
    digest = frozen_digest(net)
    assert len(digest) == 64
    with torch.no_grad():
        _weight(net, "2.weight").add_(1)
    assert frozen_digest(net) == digest
    with torch.no_grad():
        _weight(net, "0.weight")[0, 0].add_(1e-3)
    assert frozen_digest(net) != digest
    assert frozen_digest(_net().to(torch.bfloat16)) != digest
