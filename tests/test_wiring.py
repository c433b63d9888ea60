from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fedsplit import Config, load_split_model
from fedsplit.boundary import Boundary, TensorSpec
from fedsplit.channel.frame import Kind
from fedsplit.errors import ConfigError
from fedsplit.models.loading import input_spec
from fedsplit.models.resolved import resolve
from fedsplit.split.client_rules import SplitClient
from fedsplit.split.codecs import Codec, Draw, Packed
from fedsplit.split.wire import Wire
from fedsplit.wiring import added_modules, boundaries_of, make_wire

CODECS = "tests.split.toy_codecs"


class OneLength(Codec):
    """Packs whatever it is given to four numbers."""

    def packed(self, tensors: Mapping[str, TensorSpec], batch_size: int) -> dict[str, Packed]:
        return {"all": Packed(torch.Size([4]), torch.float32)}

    def encode(self, tensors: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        return {"all": torch.zeros(4)}

    def decode(
        self, packed: Mapping[str, Tensor], tensors: Mapping[str, TensorSpec], batch_size: int
    ) -> dict[str, Tensor]:
        return {name: torch.zeros(spec.shape_for(batch_size)) for name, spec in tensors.items()}


def _wire(**keys: object) -> Wire:
    config = Config.load({"model.name": "vit-nano", **keys})
    return make_wire(
        config, resolve("vit-nano"), num_labels=10, spec=input_spec("vit-nano"), cut_gradient=True
    )


def test_the_wire_measured_without_weights_is_that_of_the_model() -> None:
    """Break it: measure another cut, or forget dtype in the cache's key."""
    spec = input_spec("vit-nano")
    for cut in (1, 3):
        parts = load_split_model("vit-nano", split_points=[cut], num_labels=10)
        assert (
            _wire(**{"split.cut-layer": cut}).smashed
            == boundaries_of(parts, spec, u_shaped=False)[0]
        )
    half = _wire(**{"model.dtype": "bfloat16"}).smashed
    assert {spec.dtype for spec in half.tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(("last", "largest"), [("keep", 8), ("drop", 8), ("merge", 15)])
def test_the_longest_batch_depends_on_what_happens_to_the_last(last: str, largest: int) -> None:
    """Break it: use batch-size."""
    wire = _wire(**{"batch-size": 8, "last-batch": last})
    frames = wire.step(largest).uplink
    assert wire.max_batch_size == largest
    assert [len(frame.tensors["labels"]) for frame in frames] == [largest]


def test_codecs_of_the_config_are_those_of_the_wire() -> None:
    wire = _wire(**{"codec.uplink": f"{CODECS}:Int8"})
    up, down = wire.payloads[Kind.SMASHED_DATA], wire.payloads[Kind.CUT_GRADIENT]
    assert type(up.codec).__name__ == "Int8"
    assert type(down.codec).__name__ == "Identity"


def test_a_codec_whose_frames_do_not_tell_the_batch_size_is_refused_before_the_run() -> None:
    """With labels in the frame they tell it."""
    keys = {"codec.uplink": f"{__name__}:OneLength"}
    _wire(**keys)
    with pytest.raises(ConfigError, match=r"codec\.uplink = '.*:OneLength' packs a batch of any"):
        _wire(**keys, **{"split.topology": "u-shaped"})


def test_added_modules_are_the_same_in_every_process() -> None:
    """Break it: draw them outside the seed."""

    class Heads(SplitClient):
        @classmethod
        def added_modules(cls, smashed: Boundary, num_labels: int) -> dict[str, nn.Module]:
            return {"head": nn.Linear(3, num_labels)}

    config, smashed = Config.load({"model.dtype": "bfloat16"}), _wire().smashed
    one, other = (
        added_modules(Heads, config, smashed=smashed, num_labels=5)["head"].state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
