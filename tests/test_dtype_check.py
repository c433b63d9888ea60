from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsplit.config import Config
from fedsplit.errors import ConfigError
from fedsplit.models.stages import Part
from fedsplit.preparation import prepare


def test_float16_with_adam_is_refused_before_the_run(tiny: dict[str, object]) -> None:
    """Its epsilon is 0 in float16. Break it: leave out the step of the optimizer."""
    config = Config.load(tiny, {"model.dtype": "float16", "optimizer": "adam"})
    with pytest.raises(
        ConfigError, match=r"'float16' cannot train .*'cpu' with optimizer = 'adam'"
    ):
        prepare(config)


@pytest.mark.parametrize(("key", "otherwise"), [("dtype", "float32"), ("autocast", "none")])
def test_a_missing_operation_is_one_clear_error(
    tiny: dict[str, object], key: str, otherwise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: look at one of the two keys."""

    def missing(*_: object) -> None:
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for\n'Half'")

    config = Config.load(tiny, {f"model.{key}": "float16"})
    monkeypatch.setattr(nn.Linear, "forward", missing)
    with pytest.raises(
        ConfigError,
        match=rf"model\.{key} = 'float16' .*for 'Half'\)\. Use 'bfloat16', or '{otherwise}'",
    ):
        prepare(config)


def test_the_check_leaves_the_model_as_it_is(tiny: dict[str, object]) -> None:
    plain = prepare(Config.load(tiny)).model.bottom.state_dict()
    checked = prepare(Config.load(tiny, {"model.autocast": "bfloat16"}))
    server_part, trunk = checked.server_part, checked.model.trunk
    assert isinstance(server_part, Part)
    assert isinstance(trunk, Part)
    assert server_part.autocast is torch.bfloat16
    assert trunk.autocast is None
    state = checked.model.bottom.state_dict()
    assert all(torch.equal(plain[name], state[name]) for name in plain)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"model.dtype": "bfloat16", "model.autocast": "bfloat16"},
            "needs model.dtype = 'float32'",
        ),
        ({"model.dtype": "float8"}, "model.dtype"),
        ({"split.trainable": "top"}, "split.trainable"),
        ({"lora.rank": 0}, "lora.rank"),
    ],
)
def test_nonsense_is_refused(tiny: dict[str, object], keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(Config.load(tiny, keys))
