"""What differs between the libraries that models come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fedsplit.input_spec import InputSpec
from fedsplit.models.hub import Source
from fedsplit.models.weights import Stored


class Library(Protocol):
    """How one library makes, names, draws and saves its models."""

    def build(self, source: Source, model_class: type[nn.Module], num_labels: int | None) -> Any:  # noqa: ANN401
        """Make a model from its config, with drawn weights, on whatever device is the default."""

    def build_empty(
        self,
        source: Source,
        model_class: type[nn.Module],
        num_labels: int | None,
    ) -> Any:  # noqa: ANN401
        """Make a model whose weights are on the meta device, and nothing else is."""

    def stored_labels(self, source: Source, model_class: type[nn.Module]) -> int | None:
        """Return the classes of a directory's own classifier; None if it has none."""

    def open(self, source: Source, model: nn.Module, cache_dir: str | Path | None) -> Stored:
        """Open the weights of a directory, or those that the library has for a name.

        Parameters
        ----------
        source : Source
            With a directory, or a name for which the library has weights.
        model : nn.Module
            Its skeleton.
        cache_dir : str | Path | None
            Where what comes from the hub is kept.

        Raises
        ------
        ModelError
            If they cannot be had.
        """

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Return the function from a checkpoint's key to the model's name of that tensor."""

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Whether a checkpoint may hold a tensor of this name, for which there is no place."""

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Draw these of a model's tensors, from torch's global generator, as the library does."""

    def input_spec(
        self, source: Source, model: nn.Module, processor: Mapping[str, Any]
    ) -> InputSpec | None:
        """Return the images that a model takes; None if it does not say.

        Parameters
        ----------
        source : Source
            Its config.
        model : nn.Module
            Its skeleton.
        processor : Mapping[str, Any]
            What its preprocessor_config.json says; empty if there is none.
        """

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write config.json and model.safetensors."""
