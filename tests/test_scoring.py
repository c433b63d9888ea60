from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from fedsplit import Config
from fedsplit.data.loader import Images
from fedsplit.preparation import prepare
from fedsplit.scoring import score_clients, score_model


@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
def test_each_client_has_the_score_of_its_own_part(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch, plain_threads: None, topology: str
) -> None:
    """Break it: have the threads share one client part, or lose the order of the clients."""
    config = Config.load(tiny, {"max-concurrent-clients": 3, "split.topology": topology})
    prepared = prepare(config)
    initial = {name: t.clone() for name, t in prepared.client_part.state_dict().items()}
    states = [{name: tensor * (1 + k) for name, tensor in initial.items()} for k in range(5)]
    states = [*states, states[0], states[0]]
    threads, original = set(), Images.batch

    def batch(images: Images, indices: Tensor) -> tuple[Tensor, Tensor]:
        threads.add(threading.get_ident())
        return original(images, indices)

    monkeypatch.setattr(Images, "batch", batch)
    told: list[tuple[int, int]] = []
    results = score_clients(prepared, config, states, lambda *counts: told.append(counts))

    assert threading.get_ident() not in threads
    assert told == [(done, 5) for done in range(1, 6)]  # one object is scored once
    now = prepared.client_part.state_dict()
    assert all(torch.equal(now[name], initial[name]) for name in initial)
    assert len({result.loss for result in results}) == 5
    for state, result in zip(states, results, strict=True):
        prepared.client_part.load_state_dict(state)
        alone = score_model(prepared, "cpu")
        assert alone[:2] == result[:2]  # to the bit
        assert torch.equal(alone.confusion, result.confusion)
