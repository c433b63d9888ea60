"""Federated split learning of vision transformers on Flower.

The public names are loaded when they are first used, so that importing one of them does not
load the libraries of the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsplit.config import Config
    from fedsplit.inprocess import Result, simulate
    from fedsplit.models.custom import BaseBottomModel, BaseTopModel, BaseTrunkModel
    from fedsplit.models.loading import load_split_model
    from fedsplit.models.registry import register_family
    from fedsplit.models.split import SplitModel, split_model

__all__ = [
    "BaseBottomModel",
    "BaseTopModel",
    "BaseTrunkModel",
    "Config",
    "Result",
    "SplitModel",
    "load_split_model",
    "register_family",
    "simulate",
    "split_model",
]

_HOMES = {
    "BaseBottomModel": "fedsplit.models.custom",
    "BaseTopModel": "fedsplit.models.custom",
    "BaseTrunkModel": "fedsplit.models.custom",
    "Config": "fedsplit.config",
    "Result": "fedsplit.inprocess",
    "SplitModel": "fedsplit.models.split",
    "load_split_model": "fedsplit.models.loading",
    "register_family": "fedsplit.models.registry",
    "simulate": "fedsplit.inprocess",
    "split_model": "fedsplit.models.split",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsplit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
