"""A digest of the user's own code that a run uses, so that nobody mixes results of two versions."""

from __future__ import annotations

import hashlib
import importlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from fedsplit.config import Config
from fedsplit.initial_model import model_of
from fedsplit.objects import is_object
from fedsplit.references import is_reference, load_reference

_RULES = ("client_rule", "update_rule")
_OURS = ("fedsplit", "strategies")


def code_digest(config: Config) -> str | None:
    """Return the SHA-256 of the modules that a config and its model name; None if they name none.

    All files of a module's package count, because it may import them; modules of installed packages
    do not, and neither does what a notebook defines.

    Parameters
    ----------
    config : Config
        Its values of the form ``package.module:name`` count, and the function that the files of a
        trusted model name.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be used.
    """
    factory = model_of(config).source.config.get("factory")
    files: dict[str, Path] = {}
    for value in [*config.to_flat().values(), factory]:
        if not isinstance(value, str) or not is_reference(value) or is_object(value):
            continue
        own = dict(_files_of(value.partition(":")[0]))
        if own:  # "timm:vit_small_patch16_224" has the same form, and is in an installed package
            files |= own
            for module in _modules_of_rules(value):
                files |= _files_of(module)
    if not files:
        return None
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _modules_of_rules(reference: str) -> Iterator[str]:
    found = load_reference(reference, key="strategy")
    for rule in _RULES:
        yield getattr(getattr(found, rule, None), "__module__", "")


def _files_of(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each file of a module's package, or of the module alone."""
    top = module.partition(".")[0]
    if top in (*_OURS, "", "__main__", "builtins"):
        return
    package = importlib.import_module(top)
    where = getattr(package, "__file__", None)
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))
    if where is None or where.startswith(installed):
        return
    path = Path(where)
    if path.name != "__init__.py":
        yield path.name, path
        return
    for file in path.parent.rglob("*.py"):
        yield str(file.relative_to(path.parent.parent)), file
