from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsplit.client_model import HeldModel, held_model
from fedsplit.config import Config
from fedsplit.errors import ModelError
from fedsplit.exchanged_state import exchanged, frozen_digest
from fedsplit.initial_model import initial_model
from fedsplit.models import save_model
from fedsplit.models.resolved import resolve
from fedsplit.models.split import SplitModel, hold_parts, join_parts
from fedsplit.models.trainable import unused_weights_of
from tests.conftest import TINY
from tests.models.families import zoo

pytestmark = pytest.mark.usefixtures("plain_threads")


def _config(**overrides: object) -> Config:
    return Config.load(TINY, {"split.cut-layer": 2, **overrides})


def _initial(config: Config) -> SplitModel:
    return initial_model(config, resolve(config.model.name), num_labels=10)


def _held(config: Config, *, split: bool = True, frozen: str | None = None) -> HeldModel:
    model = _initial(config)
    own = hold_parts(model.bottom, model.top) if config.split.u_shaped else model.bottom
    whole = own if split else join_parts(*model)
    digest = frozen_digest(whole) if frozen is None else frozen
    return held_model(config, resolve(config.model.name), split=split, num_labels=10, frozen=digest)


@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
@pytest.mark.parametrize("mode", ["bottom-frozen", "head", "lora"])
def test_what_is_frozen_is_made_as_the_server_makes_it(mode: str, topology: str) -> None:
    config = _config(split_trainable=mode, split_topology=topology)
    held, bottom, top = _held(config)
    server = _initial(config)
    frozen = bottom.state_dict().keys() - exchanged(bottom).keys()
    assert frozen
    assert all(torch.equal(bottom.state_dict()[n], server.bottom.state_dict()[n]) for n in frozen)
    assert (top is not None) == (topology == "u-shaped")
    assert set(exchanged(held)) == set(exchanged(bottom)) | set(exchanged(top) if top else ())


def test_clients_of_one_process_share_what_is_frozen() -> None:
    """Break it: make it anew for each message."""
    config = _config(split_trainable="lora")
    one, other = _held(config).held, _held(config).held
    a, b = dict(one.named_parameters()), dict(other.named_parameters())
    assert {name for name in a if a[name] is b[name]} == a.keys() - exchanged(one).keys()


def test_other_frozen_weights_than_the_servers_are_refused() -> None:
    """Break it: leave out the comparison; the client trains on features of another model."""
    config = _config(split_trainable="head")
    with pytest.raises(ModelError, match=r"frozen weights of 'vit-nano' .* differ from the server"):
        _held(config, frozen="0" * 64)


@pytest.mark.parametrize("split", [True, False])
def test_without_anything_frozen_no_weights_are_made(split: bool) -> None:
    held = _held(_config(model_dtype="bfloat16"), split=split).held
    assert list(exchanged(held)) == list(held.state_dict())
    assert {p.dtype for p in held.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("split", [True, False])
def test_what_the_output_does_not_use_needs_no_checkpoint(split: bool, tmp_path: Path) -> None:
    """Break it: have the digest cover the mask token, which is frozen."""
    model = zoo.make("dinov2")
    save_model(model, zoo.images_of(model), tmp_path)
    config = _config(model_name=str(tmp_path))
    start = _initial(config)
    own = start.bottom if split else join_parts(*start)
    digest = frozen_digest(own, unused_weights_of(start.bottom))
    (tmp_path / "model.safetensors").unlink()
    held = held_model(
        config, resolve(config.model.name), split=split, num_labels=10, frozen=digest
    ).held
    assert set(held.state_dict()) - set(exchanged(held)) == {"dinov2.embeddings.mask_token"}
    assert list(exchanged(held)) == list(exchanged(own))
