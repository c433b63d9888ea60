"""A family: how to find the stages of one architecture.

It names its model class as text, so that a family is known without importing its library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedsplit.errors import ModelError
from fedsplit.models.libraries.base import Library
from fedsplit.models.stages import Root, Stage


@dataclass(frozen=True)
class Family:
    """One architecture; `register_family` explains the fields."""

    name: str
    model_class: str
    stages: Callable[[Root], Sequence[Stage]]
    model_type: str | None = None
    head: tuple[str, ...] = ("classifier.",)
    ignored_keys: tuple[str, ...] = ()
    image_processor: str | None = None
    library: str = "transformers"
    image_shape: Callable[[Root], tuple[int, int, int]] | None = None
    unused_weights: tuple[str, ...] = ()
    size_step: Callable[[Root], int] | None = None

    @property
    def class_name(self) -> str:
        """The model class without its module."""
        return self.model_class.partition(":")[2]

    def load_library(self) -> Library:
        """Return how the model's library makes, draws and saves its models."""
        module = importlib.import_module(f"fedsplit.models.libraries.{self.library}")
        library: Library = module.LIBRARY
        return library

    def load_class(self) -> type[Root]:
        """Import and return the model class.

        Raises
        ------
        ModelError
            If the library it comes from is not installed, or has no such class.
        """
        module, _, name = self.model_class.partition(":")
        try:
            found: type[Root] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            library = module.partition(".")[0]
            raise ModelError(
                f"Models of the family '{self.name}' need {name} of the library '{library}', "
                f"which cannot be imported: {error}. Install or upgrade it: "
                f"pip install -U {library}."
            ) from None
        return found
