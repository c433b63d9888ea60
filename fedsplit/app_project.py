"""The folder of a Flower app, and what is wrong with its pyproject.toml.

Flower reports a mistake in it with a code, when the run has started. Here it is named before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from fedsplit.config import Config, read_toml
from fedsplit.config.keys import pairs
from fedsplit.errors import ConfigError

APP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")
"""What Flower takes for the name of an app."""
_OWN = Path(__file__).parents[1]
"""The folder of fedsplit's own app, if this is a checkout."""


@dataclass(frozen=True)
class AppProject:
    """The folder of a Flower app, with the content of its pyproject.toml.

    Attributes
    ----------
    folder : Path
        Absolute.
    content : Mapping[str, object]
        What pyproject.toml says.
    """

    folder: Path
    content: Mapping[str, object]

    @classmethod
    def find(cls, *starts: Path, or_own: bool = False) -> Self | None:
        """Return the app at or above one of these folders, or None.

        Parameters
        ----------
        *starts : Path
            Where to look, the first first.
        or_own : bool
            Whether to take the app of fedsplit's checkout, if that is installed, instead of None.

        Raises
        ------
        ConfigError
            If a pyproject.toml on the way is not TOML.
        """
        absolute = [start.resolve() for start in starts]
        folders = [folder for start in absolute for folder in (start, *start.parents)]
        for folder in [*folders, *([_OWN] if or_own else [])]:
            path = folder / "pyproject.toml"
            if path.is_file():
                found = cls(folder, read_toml(path))
                if found._table("tool", "flwr", "app") is not None:
                    return found
        return None

    def make_importable(self, *, by_children: bool = False) -> None:
        """Let this process import the app's modules, as the processes of its runs do.

        Parameters
        ----------
        by_children : bool
            Whether the processes that this one starts can import them, too.
        """
        folder = str(self.folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        if by_children:
            paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)

    @cached_property
    def config(self) -> Config:
        """Its config: every key with the app's default.

        Raises
        ------
        ConfigError
            If it is wrong, or missing.
        """
        return Config.from_flat(self._values(), source=str(self.path))

    @property
    def path(self) -> Path:
        """Its pyproject.toml."""
        return self.folder / "pyproject.toml"

    def _values(self) -> Mapping[str, object]:
        values = self._table("tool", "flwr", "app", "config")
        if values is None:
            raise ConfigError(
                f"'{self.path}' has no [tool.flwr.app.config]: Flower accepts no key that is not "
                "there. Copy the table from an app that 'fedsplit new' makes."
            )
        return values

    def check(self) -> None:
        """Refuse what Flower would refuse later.

        Raises
        ------
        ConfigError
            With everything that is wrong.
        """
        keys, known = self.config.to_flat(), {key for key, _ in pairs(self._values())}
        missing = [f"{key} = {json.dumps(keys[key])}" for key in keys if key not in known]
        faults = [
            *self._faults_of_name(),
            *self._missing("version", "project"),
            *self._missing("publisher", "tool", "flwr", "app"),
            *self._faults_of_component("serverapp"),
            *self._faults_of_component("clientapp"),
            *self._faults_of_includes(),
            *self._hidden_packages(),
        ]
        if missing:
            faults.append(
                "[tool.flwr.app.config] lacks keys, without which Flower refuses them. Add "
                + ", ".join(missing)
            )
        if faults:
            raise ConfigError(f"'{self.path}' cannot run: {'; '.join(faults)}.")

    def _table(self, *names: str) -> Mapping[str, object] | None:
        found: object = self.content
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else None

    def _missing(self, key: str, *table: str) -> list[str]:
        value = (self._table(*table) or {}).get(key)
        if isinstance(value, str) and value:
            return []
        return [f"[{'.'.join(table)}] has no {key}"]

    def _faults_of_name(self) -> list[str]:
        name = (self._table("project") or {}).get("name")
        if not isinstance(name, str) or APP_NAME.fullmatch(name):
            return self._missing("name", "project")
        return [
            f"[project] has name = '{name}'; for Flower it must be at most 32 letters, digits and "
            "hyphens, and begin with a letter"
        ]

    def _faults_of_component(self, name: str) -> list[str]:
        """Return why a component cannot be loaded: it is looked for, and not imported."""
        components = self._table("tool", "flwr", "app", "components") or {}
        value = components.get(name)
        module, colon, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
        if not (module and colon and attribute):
            return [
                f"[tool.flwr.app.components] has {name} = {value!r}; it must be module:name, such "
                f'as "fedsplit.{name.replace("app", "_app")}:app"'
            ]
        sys.path.insert(0, str(self.folder))
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        finally:
            sys.path.remove(str(self.folder))
        return [] if found else [f"{name} = '{value}': there is no module '{module}'"]

    def _faults_of_includes(self) -> list[str]:
        """Return which patterns match nothing: Flower refuses the whole app for one."""
        patterns = (self._table("tool", "flwr", "app") or {}).get("fab-include", [])
        if not isinstance(patterns, list):
            return [f"fab-include = {patterns!r} must be a list of patterns"]
        return [
            f"fab-include has '{pattern}', which matches no file"
            for pattern in patterns
            if not any(self.folder.glob(str(pattern)))
        ]

    def _hidden_packages(self) -> list[str]:
        """Return which packages of fedsplit the app's own folders would hide in every process."""
        return [
            f"its '{name}' would hide the package '{name}' of fedsplit: rename it"
            for name in ("fedsplit", "strategies")
            for path in (self.folder / name, self.folder / f"{name}.py")
            if path.exists() and self.folder != _OWN
        ]
