from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAdam,
    FedAvg,
    FedXgbBagging,
    QFedAvg,
    Strategy,
)

from fedsplit.config import AggregationConfig
from fedsplit.errors import ConfigError, RunError
from fedsplit.objects import Given, holding
from fedsplit.snapshot import from_bytes, to_bytes
from strategies.aggregation import make_aggregator
from strategies.aggregator_state import aggregator_state, load_aggregator_state
from strategies.own_aggregator import options_of, run_copy
from tests.strategies.own import Slowing, Strict

OWN = "tests.strategies.own"


def _make(name: str, options: str = "") -> Any:  # noqa: ANN401
    return make_aggregator(AggregationConfig(name=name, options=options))


def test_a_class_is_made_with_its_options() -> None:
    slowing = _make(f"{OWN}:Slowing", "step = 0.5")
    assert type(slowing) is Slowing
    assert slowing.step == 0.5
    assert (slowing.min_train_nodes, slowing.min_available_nodes) == (1, 1)
    strict = _make(f"{OWN}:Strict", "beta = 0.25")
    assert type(strict) is Strict
    assert (strict.beta, strict.min_train_nodes) == (0.25, 1)  # although FedAvg's default is 2
    assert isinstance(_make("flwr.serverapp.strategy:FedAdam", "eta = 0.5"), FedAdam)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (f"{OWN}:NoAggregator", "", "is not a class derived from flwr.serverapp.strategy.Strategy"),
        (f"{OWN}:an_instance", "", "is not a class derived from"),
        (f"{OWN}:no_such", "", r"aggregation\.name = 'tests.strategies.own:no_such' cannot be imp"),
        (f"{OWN}:Strict", "", "cannot be made with .*missing 1 required keyword-only argument"),
        (f"{OWN}:Strict", "gamma = 1", "unexpected keyword argument 'gamma'"),
        (f"{OWN}:Broken", "", r"cannot be made with .*OSError: no such table"),
        (f"{OWN}:Halves", "", r"Halves has fraction_train = 0\.5.*Set fraction-train instead"),
        ("FedAwg", "", "Your own class is package.module:Class"),
    ],
)
def test_what_is_no_aggregator_is_refused(name: str, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _make(name, options)


def test_each_run_gets_a_copy_of_an_instance() -> None:
    """Break it: use the instance itself; the second run goes on with the first one's moments."""
    given = FedAdam(eta=0.5)
    with holding([Given("aggregation.name", "object:FedAdam", given)]):
        first, second = _make("object:FedAdam"), _make("object:FedAdam", options_of(given))
    assert first is not second
    first.m_t = {"w": np.ones(1)}
    assert given.m_t is second.m_t is None
    assert (first.eta, first.min_train_nodes, given.min_train_nodes) == (0.5, 1, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FedAvg(fraction_train=0.5), r"fraction_train = 0\.5.*Set fraction-train instead"),
        (FedAvg(fraction_evaluate=0.5), r"fraction_evaluate = 0\.5.*Set fraction-evaluate instead"),
        (FedAvg(min_train_nodes=5), "min_train_nodes = 5.*Set min-participants instead"),
        (FedAvg(arrayrecord_key="w"), "arrayrecord_key = 'w'.*Leave it at 'arrays'"),
        (FedAvg(weighted_by_key="n"), "weighted_by_key = 'n'.*Leave it at 'num-examples'"),
        (
            DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(min_evaluate_nodes=7), 0.1, 4),
            "FedAvg has min_evaluate_nodes = 7",
        ),
    ],
)
def test_an_instance_for_another_way_of_sampling_is_refused(given: Strategy, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_copy(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FedXgbBagging(), "FedXgbBagging does not work here: it combines trees"),
        (
            DifferentialPrivacyClientSideFixedClipping(FedAvg(), 0.1, 1.0, 4),
            "its clients have to clip what they train by a mod of Flower's",
        ),
    ],
)
def test_what_would_do_something_else_than_it_says_is_refused(given: Strategy, said: str) -> None:
    """Break it: let clients train without clipping; the noise would then protect nothing."""
    with pytest.raises(ConfigError, match=said):
        run_copy(given)


def test_an_instance_that_cannot_be_copied_is_refused() -> None:
    given: Any = FedAvg()
    given.lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"FedAvg cannot be copied \(TypeError.*Give its class"):
        run_copy(given)


def test_a_loss_key_is_that_of_fedsplit() -> None:
    copied = run_copy(QFedAvg(client_learning_rate=0.1))
    assert vars(copied)["train_loss_key"] == "loss"


def test_options_say_how_an_instance_was_made() -> None:
    """A run that continues compares them. Break it: leave out what is wrapped."""
    assert options_of(FedAdam(eta=0.5)) == (
        "eta = 0.5, eta_l = 0.1, tau = 0.001, beta_1 = 0.9, beta_2 = 0.99"
    )
    wrapped = DifferentialPrivacyServerSideAdaptiveClipping(FedAdam(eta=0.5), 0.1, 4)
    assert "num_sampled_clients = 4" in options_of(wrapped)
    assert "strategy.eta = 0.5" in options_of(wrapped)
    assert options_of(FedAvg()) == ""


def _restored(aggregator: Any, fresh: Any) -> Any:  # noqa: ANN401
    load_aggregator_state(fresh, from_bytes(to_bytes(aggregator_state(aggregator))))
    return fresh


def test_numbers_texts_and_arrays_are_kept() -> None:
    """Break it: keep arrays alone, as Flower's own strategies need no more."""
    used: Any = Slowing(step=0.5)
    used.num_rounds, used.history, used.name = 3, [1.0, 0.5], "later"
    used.before = ArrayRecord({"w": torch.tensor([1.0])})
    used.scale, used.matrix = np.float32(0.1), np.eye(2)
    used.nested = {"a": [1, {"b": None}], "c": "d"}
    again = _restored(used, Slowing(step=0.5))
    assert (again.num_rounds, again.history, again.name) == (3, [1.0, 0.5], "later")
    assert again.before["w"].numpy().tolist() == [1.0]
    assert type(again.scale) is np.float32
    assert again.scale == np.float32(0.1)
    assert (again.matrix == np.eye(2)).all()
    assert again.nested == {"a": [1, {"b": None}], "c": "d"}


def test_what_is_wrapped_is_kept_too() -> None:
    def wrapped() -> Any:  # noqa: ANN401
        return DifferentialPrivacyServerSideAdaptiveClipping(FedAdam(), 0.1, 4)

    used = wrapped()
    used.clipping_norm, used.strategy.m_t = np.float64(0.25), {"w": np.ones(2)}
    again = _restored(used, wrapped())
    assert again.clipping_norm == 0.25
    assert again.strategy.m_t["w"].tolist() == [1.0, 1.0]


def test_an_aggregator_may_keep_its_state_itself() -> None:
    class Counting(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.seen = {1}

        def state_dict(self) -> dict[str, Any]:
            return {"seen": sorted(self.seen)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.seen = set(state["seen"])

    used = Counting()
    used.seen |= {4, 9}
    assert _restored(used, Counting()).seen == {1, 4, 9}


@pytest.mark.parametrize(
    "value",
    [{1, 2}, (1, 2), [object()], {1: "a"}, torch.zeros(2), np.array(["a"])],
    ids=["set", "tuple", "object", "int-key", "tensor", "texts"],
)
def test_what_a_checkpoint_cannot_keep_is_refused(value: object) -> None:
    """Break it: leave it out; a run that continues would then go elsewhere."""
    used: Any = FedAvg()
    used.history = value
    with pytest.raises(RunError, match=r"FedAvg holds history = .*a checkpoint cannot keep"):
        aggregator_state(used)
