from __future__ import annotations

import torch

from fedsplit.config import Config
from fedsplit.initial_model import initial_model
from fedsplit.models.loading import load_model
from fedsplit.models.resolved import resolve
from fedsplit.models.split import SplitModel, join_parts
from fedsplit.seeding import seeded_init
from tests.conftest import TINY


def _made(**overrides: object) -> SplitModel:
    config = Config.load(TINY, overrides)
    return initial_model(config, resolve(config.model.name), num_labels=10)


def test_the_weights_are_those_of_the_seed() -> None:
    with seeded_init(7, "model"):
        plain = load_model("vit-nano", num_labels=10).state_dict()
    made = join_parts(*_made()).state_dict()
    assert set(made) == set(plain)
    assert all(torch.equal(made[name], plain[name]) for name in plain)


def test_adapters_do_not_depend_on_the_cut_and_change_no_other_weight() -> None:
    """Break it: draw adapters and weights from one stream of numbers."""
    states = [
        join_parts(*_made(split_trainable="lora", split_cut_layer=cut)).state_dict()
        for cut in (1, 3)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    plain = join_parts(*_made()).state_dict()
    assert torch.equal(states[0]["classifier.weight"], plain["classifier.weight"])
