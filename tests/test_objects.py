from __future__ import annotations

import pytest

from fedsplit.errors import ConfigError
from fedsplit.objects import Given, arguments_of, given_object, holding, is_object, object_name
from fedsplit.references import load_reference

DATA = Given("data.name", "object:Toy", [1])


def test_a_name_says_of_which_class_an_object_is() -> None:
    assert object_name(dict) == "object:dict"
    assert object_name(type("Straße der Daten-1", (), {})) == "object:Stra_e_der_Daten_1"
    assert is_object("object:dict")
    assert not is_object("my_data:splits")


def test_a_run_finds_its_objects_and_no_others() -> None:
    """Break it: leave the objects in place when the block ends."""
    other = Given("data.name", "object:Toy", [2])
    with holding([DATA]):
        assert given_object("object:Toy", key="data.name") is DATA
        assert load_reference("object:Toy", key="data.name") == [1]
        with holding([other]):  # a callback that makes a run
            assert given_object("object:Toy", key="data.name") is other
        assert given_object("object:Toy", key="data.name") is DATA
        with holding([]), pytest.raises(ConfigError):
            given_object("object:Toy", key="data.name")
    with pytest.raises(ConfigError):
        given_object("object:Toy", key="data.name")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data.name", r"simulate\(\.\.\., data=\.\.\.\).*a function that returns its splits"),
        ("model.name", r"simulate\(\.\.\., model=\.\.\.\).*a function that makes it"),
        ("strategy", r"simulate\(\.\.\., strategy=\.\.\.\).*the class into a module"),
        ("aggregation.name", r"simulate\(\.\.\., aggregator=\.\.\.\).*its class into a module"),
    ],
)
def test_what_is_missing_is_refused_with_both_remedies(key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 'object:X' stands for an object.*{said}"):
        load_reference("object:X", key=key)


def test_the_object_of_one_key_is_not_that_of_another() -> None:
    with holding([DATA]), pytest.raises(ConfigError, match=r"model\.name = 'object:Toy'"):
        given_object("object:Toy", key="model.name")


def test_a_config_says_which_arguments_it_had() -> None:
    flat = {"data.name": "object:Toy", "model.name": "vit-nano", "aggregation.name": "object:Adam"}
    assert arguments_of(flat) == {"data": "Toy", "aggregator": "Adam"}
    assert arguments_of({}) == {}
