from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsplit.seeding import derive_seed, generator, seeded_init, unchanged_generator

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


def test_seeded_init_of_many_threads_is_that_of_one() -> None:
    """Break it: do not hold the lock while the global generator is seeded."""

    def made(number: int) -> torch.Tensor:
        with seeded_init(3, "model", number % 4):
            layers = []
            for _ in range(20):
                layers.append(torch.nn.Linear(8, 8).weight.detach())
                time.sleep(0)  # lets another thread run
            return torch.stack(layers)

    before = torch.get_rng_state()
    alone = [made(number) for number in range(4)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(made, range(64)))
    wrong = [n for n, found in enumerate(together) if not torch.equal(found, alone[n % 4])]
    assert wrong == []
    assert torch.equal(before, torch.get_rng_state())


def test_blocks_that_draw_from_the_global_generator_can_be_nested() -> None:
    before = torch.get_rng_state()
    with seeded_init(3, "model"):
        first = torch.rand(1)
        with unchanged_generator():
            torch.rand(5)
        second = torch.rand(1)
    assert torch.equal(before, torch.get_rng_state())
    with seeded_init(3, "model"):
        assert torch.equal(torch.rand(2), torch.cat([first, second]))


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
