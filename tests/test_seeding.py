from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsplit.seeding import derive_seed, generator, seeded_init

names = st.lists(st.integers() | st.text(), max_size=4)


def test_golden_values() -> None:
    # These decide every run's numbers: whoever changes them changes all results.
    assert derive_seed(42) == 2376719381931921175
    assert derive_seed(42, "batches", 1, 0) == 3879971330708807414


@given(st.integers(0, 2**63), names, names)
def test_other_names_give_other_seeds(
    seed: int, one: list[str | int], other: list[str | int]
) -> None:
    first, second = derive_seed(seed, *one), derive_seed(seed, *other)
    assert (first == second) == ((one, [*map(type, one)]) == (other, [*map(type, other)]))
    assert 0 <= first < 2**63
    assert derive_seed(seed + 1, *one) != first


def test_names_are_told_from_numbers_and_from_their_order() -> None:
    every: list[tuple[str | int, ...]] = [
        ("1",),
        (1,),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        (),
        (1, ""),
    ]
    seeds = [derive_seed(1, *one) for one in every]
    assert len(set(seeds)) == 7


def test_generators_are_independent_of_the_global_state() -> None:
    state = torch.get_rng_state()
    first = torch.rand(3, generator=generator(1, "a"))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=generator(1, "a")))
    assert not torch.equal(first, torch.rand(3, generator=generator(2, "a")))
    torch.set_rng_state(state)


def test_seeded_init_restores_the_global_state() -> None:
    before = torch.get_rng_state()
    with seeded_init(3, "model"):
        first = torch.nn.Linear(2, 2).weight
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    with seeded_init(3, "model"):
        second = torch.nn.Linear(2, 2).weight
    assert torch.equal(first, second)
    torch.set_rng_state(before)
