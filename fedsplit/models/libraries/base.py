"""What fedsplit asks of each library that models come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fedsplit.input_spec import InputSpec
from fedsplit.models.hub import Source
from fedsplit.models.stored import Stored


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
        """Make a model whose weights, and nothing else, are on the meta device."""

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
            Where hub files are kept.

        Raises
        ------
        ModelError
            If they cannot be read or fetched.
        """

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Return the function from a checkpoint's key to the model's name of that tensor."""

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Return whether a checkpoint may hold a tensor of this name, which the model lacks."""

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Draw these tensors of a model as the library does, from torch's global generator."""

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

    def config_of(self, model: nn.Module) -> Mapping[str, Any]:
        """Return what config.json says of a model; `build` makes one like it of that, if it can."""

    def save(
        self, model: nn.Module, directory: Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Write config.json and model.safetensors.

        Parameters
        ----------
        model : nn.Module
            Whole. It takes over the class names.
        directory : Path
            Where to.
        class_names : Sequence[str] | None
            In the order of the logits; None = those that the model has.

        Raises
        ------
        ModelError
            If the library cannot describe the model, or there are more names than logits.
        """
