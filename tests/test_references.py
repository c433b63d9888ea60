from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedsplit.errors import ConfigError
from fedsplit.references import is_reference, leads_to, load_reference


@pytest.mark.parametrize("name", ["mine:Thing", "a.b_c.d1:_name"])
def test_a_module_and_a_name_are_a_reference(name: str) -> None:
    assert is_reference(name)


@pytest.mark.parametrize(
    "name", ["", "vit-nano", "a/b", "a:b:c", ":b", "a:", "a b:c", "timm:vit-x", "a..b:c", "a:b\n"]
)
def test_other_names_are_no_reference(name: str) -> None:
    assert not is_reference(name)
    with pytest.raises(ConfigError, match=r"package\.module:name"):
        load_reference(name, key="strategy")


def test_the_object_is_returned_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: keep objects in a cache by their names."""
    monkeypatch.setattr(sys.modules[__name__], "thing", 1, raising=False)
    assert load_reference(f"{__name__}:thing", key="data.name") == 1
    monkeypatch.setattr(sys.modules[__name__], "thing", 2)
    assert load_reference(f"{__name__}:thing", key="data.name") == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 +", "SyntaxError"),
        ("raise OSError('no disk')", "OSError: no disk"),
        ("", "AttributeError"),
    ],
)
def test_what_cannot_be_imported_names_key_value_reason_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    (tmp_path / "broken_reference.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_reference", raising=False)
    with pytest.raises(ConfigError) as told:
        load_reference("broken_reference:Thing", key="model.name")
    assert "model.name = 'broken_reference:Thing'" in str(told.value)
    assert reason in str(told.value)
    assert "broken_reference.py" in str(told.value)


def test_a_module_that_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match="No module named 'no_such_module'"):
        load_reference("no_such_module:Thing", key="strategy")


def test_a_notebooks_own_code_is_known_in_its_process_only() -> None:
    """Break it: advise to install the package '__main__'."""
    said = r"strategy = '__main__:Mine' cannot be imported.*use simulate\(\).*move it into a module"
    with pytest.raises(ConfigError, match=said) as told:
        load_reference("__main__:Mine", key="strategy")
    assert "PYTHONPATH" not in str(told.value)


class Twice:
    """Is defined again below the test."""


def test_a_class_is_led_to_by_its_name_unless_another_has_it() -> None:
    """Break it: compare names instead of classes, as after a notebook cell is executed again."""

    class Local:
        pass

    assert leads_to(Twice)
    assert not leads_to(Local)
    assert not leads_to(type("Twice", (), {"__module__": __name__}))


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("class Mine:\n    pass\n", "Min", r"defines Mine\. Did you mean 'Mine'\?"),
        ("def broken(:\n", "Mine", r"Correct .*broken_one\.py, line 1\."),
        ("raise ValueError('no')\n", "Mine", r"raised in .*broken_one\.py, line 1\."),
        ("import nowhere_at_all\n", "Mine", r"add its folder to PYTHONPATH"),
    ],
)
def test_the_remedy_fits_what_is_wrong_with_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, said: str
) -> None:
    """Break it: advise PYTHONPATH whatever was wrong."""
    (tmp_path / "broken_one.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
    with pytest.raises(ConfigError, match=said):
        load_reference(f"broken_one:{name}", key="strategy")
