from __future__ import annotations

import subprocess
import sys
from importlib import resources

import pytest

import fedsplit


def test_public_names_are_few_and_there() -> None:
    assert len(fedsplit.__all__) <= 15
    assert {*("Config", "load_split_model", "split_model", "SplitModel"), "simulate", "Result"} | {
        *("register_family", "BaseBottomModel", "BaseTrunkModel", "BaseTopModel")
    } <= set(fedsplit.__all__)
    for name in fedsplit.__all__:
        found = getattr(fedsplit, name)
        assert found.__name__ == name
        assert found.__doc__
    assert list(fedsplit.__all__) == sorted(fedsplit.__all__)


@pytest.mark.parametrize("package", ["fedsplit", "strategies"])
def test_type_checkers_read_the_annotations_of_an_installed_package(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'fedsplit' has no attribute 'nonsense'"):
        fedsplit.nonsense  # noqa: B018


def test_importing_a_config_loads_no_heavy_library() -> None:
    code = (
        "import sys, fedsplit; from fedsplit import Config; import fedsplit.cli;"
        "print([m for m in ('torch', 'transformers', 'flwr', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
