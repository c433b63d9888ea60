from __future__ import annotations

import pytest

from strategies.clients import Clients


def test_samples_are_seeded_and_differ_by_round() -> None:
    clients = Clients({k: 1000 - k for k in range(20)}, {})
    other_nodes = Clients({k: 7 * k for k in range(20)}, {})

    def rounds(clients: Clients, seed: int) -> list[list[int]]:
        return [clients.sample(0.5, seed, "train", number) for number in range(1, 6)]

    samples = rounds(clients, 3)
    assert samples == rounds(other_nodes, 3)  # node ids decide nothing
    assert samples != rounds(clients, 4)
    assert len({tuple(sample) for sample in samples}) == 5
    assert clients.sample(0.5, 3, "evaluate", 1) != samples[0]
    for sample in samples:
        assert sample == sorted(set(sample))
        assert len(sample) == 10
        assert set(sample) <= set(range(20))


@pytest.mark.parametrize(
    ("fraction", "size"), [(1.0, 20), (0.3, 6), (0.31, 6), (0.33, 7), (0.001, 1), (0.0, 0)]
)
def test_sample_sizes(fraction: float, size: int) -> None:
    clients = Clients(dict.fromkeys(range(20), 0), {})
    assert len(clients.sample(fraction, 1, "train", 1)) == size
