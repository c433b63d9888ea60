from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsplit.config import Config, DataConfig
from fedsplit.data.catalog import load_images
from fedsplit.data.run import reading
from fedsplit.data.shards import load_shard, load_test
from fedsplit.data.sources import source_of
from tests.data.pictures import SMALL, image_folder

DIGITS = "tests.data.own_sets:digits"


def test_a_run_reads_one_state_while_another_is_checked(tmp_path: Path) -> None:
    """Break it: let `load_images` look whether or not a run holds the data set."""
    config = Config(data=DataConfig(name=str(image_folder(tmp_path, {"a": 12, "b": 6}))))

    def sizes() -> tuple[int, int]:
        return len(load_shard(config, 0, 1, SMALL).train), len(load_test(config, SMALL))

    with reading(config.data):
        before = sizes()
        image_folder(tmp_path, {"a": 24})
        with ThreadPoolExecutor(1) as other:  # as the check of another run does
            assert len(other.submit(load_images, config.data).result().train) == 15
        assert sizes() == before == (13, 3)
    with reading(config.data):
        assert sizes() == (23, 5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_images_of_a_function_leave_memory_with_the_run(fails: bool) -> None:
    """Break it: do not forget them when the block ends."""
    config = Config(data=DataConfig(name=DIGITS))

    def run() -> list[weakref.ref[object]]:
        with reading(config.data):
            shard, test = load_shard(config, 0, 2, SMALL), load_test(config, SMALL)
            assert load_shard(config, 0, 2, SMALL) is shard
            held: list[object] = [load_images(config.data), shard.train, test]
            made = [weakref.ref(value) for value in held]
            if fails:
                found.extend(made)
                raise RuntimeError("on purpose")
        return made

    found: list[weakref.ref[object]] = []
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            run()
    else:
        found = run()
    gc.collect()
    assert [reference() for reference in found] == [None] * 3


def test_what_others_can_read_again_stays_in_memory(tmp_path: Path) -> None:
    data = DataConfig(name=str(image_folder(tmp_path, {"a": 12, "b": 6})))
    with reading(data):
        images = load_images(data)
    assert load_images(data) is images
    assert source_of(data.name) == source_of(data.name)
