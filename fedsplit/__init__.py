"""Federated split learning of vision transformers on Flower.

The public names are loaded when they are first used, so that importing one of them does not
load the libraries of the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsplit.config import Config
    from fedsplit.fields import Metric
    from fedsplit.models.custom import BaseBottomModel, BaseTopModel, BaseTrunkModel
    from fedsplit.models.loading import load_split_model
    from fedsplit.models.registry import register_family
    from fedsplit.models.split import SplitModel, split_model
    from fedsplit.observers import StopRun
    from fedsplit.results.result import Result
    from fedsplit.simulation import simulate

__all__ = [
    "BaseBottomModel",
    "BaseTopModel",
    "BaseTrunkModel",
    "Config",
    "Metric",
    "Result",
    "SplitModel",
    "StopRun",
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
    "Metric": "fedsplit.fields",
    "Result": "fedsplit.results.result",
    "SplitModel": "fedsplit.models.split",
    "StopRun": "fedsplit.observers",
    "load_split_model": "fedsplit.models.loading",
    "register_family": "fedsplit.models.registry",
    "simulate": "fedsplit.simulation",
    "split_model": "fedsplit.models.split",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsplit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
