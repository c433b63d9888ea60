"""Models that a function of the user's own makes: ``package.module:function``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedsplit.errors import FedSplitError, ModelError
from fedsplit.input_spec import InputSpec
from fedsplit.models.custom import JoinedModel
from fedsplit.models.hub import Source
from fedsplit.models.labels import label_names
from fedsplit.models.processing import input_spec_of
from fedsplit.models.split import PARTS
from fedsplit.models.storage import without_storage
from fedsplit.models.stored import Checkpoint, checkpoint_of
from fedsplit.models.weights import write_model
from fedsplit.objects import is_object
from fedsplit.references import load_reference
from fedsplit.seeding import unchanged_generator

_NO_SIZE = 1
"""Of a model that does not say how large its images are: those of the processor are."""
_EXAMPLE = "make it return SplitModel(bottom, trunk, top), or a model of a registered family"


class CustomLibrary:
    """See `Library`."""

    def build(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Call the function; with ``num_labels`` if it takes that."""
        name = str(source.config["factory"])
        if is_object(name):
            raise ModelError(
                f"The model in '{source.directory or source.name}' is made of modules that "
                "simulate() was given as an object: only their weights are saved. Make the modules "
                "again, and load its model.safetensors into them, for three parts into "
                "SplitModel(bottom, trunk, top).merge(). Or write a function that makes them, and "
                "name it as 'factory' in its config.json: package.module:function; and load it "
                "with trust=True."
            )
        class_names = tuple(source.config.get("class_names", ()))
        made = _call(source.name, name, num_labels or len(class_names) or None)
        if isinstance(made, nn.Module):
            whole: Any = made
            whole.factory = name  # so that what is saved can be loaded
            whole.class_names = getattr(made, "class_names", ())
            return made
        if not (isinstance(made, tuple) and len(made) == 3):
            raise ModelError(f"The function '{name}' returned {type(made).__name__}; {_EXAMPLE}.")
        for part, module in zip(PARTS, made, strict=True):
            if not isinstance(module, nn.Module):
                raise ModelError(
                    f"The function '{name}' returned {type(module).__name__} as the {part}, which "
                    f"is no nn.Module; {_EXAMPLE}."
                )
        model = JoinedModel(*made, factory=name)
        check_apart(f"The function '{name}' returned", model)
        if num_labels in (None, len(class_names)):
            model.class_names = class_names
        return model

    def build_empty(self, source: Source, model_class: type[Any], num_labels: int | None) -> Any:  # noqa: ANN401
        """Call the function, and remove the weights."""
        with unchanged_generator():
            model: nn.Module = self.build(source, model_class, num_labels)
        without_storage(model)
        return model

    def stored_labels(self, source: Source, model_class: type[Any]) -> int | None:
        """Return None: the number is not known."""
        return None

    def open(self, source: Source, model: nn.Module, cache_dir: str | Path | None) -> Checkpoint:
        """Open the directory: a function has no other weights."""
        return checkpoint_of(source, cache_dir)

    def names(self, model: nn.Module) -> Callable[[str], str]:
        """Use the names that were saved."""
        return str

    def may_be_left(self, model: nn.Module, name: str) -> bool:
        """Allow nothing."""
        return False

    def draw(self, model: nn.Module, fresh: Collection[Tensor]) -> None:
        """Refuse: only the function knows how its weights are drawn."""
        raise ModelError(
            "The saved weights of a model of your own do not fit what its function makes now. "
            "Give the function the classes and sizes it was saved with."
        )

    def input_spec(
        self, source: Source, model: nn.Module, processor: Mapping[str, Any]
    ) -> InputSpec | None:
        """Ask the bottom, or else the processor: a saved model has that of the run's images."""
        spec: InputSpec | None = getattr(getattr(model, "bottom", model), "input_spec", None)
        mean = processor.get("image_mean")
        size = processor.get("size")
        if spec is not None or not isinstance(mean, list) or not isinstance(size, Mapping):
            return spec
        return input_spec_of(source.name, processor, len(mean), _NO_SIZE)

    def config_of(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the name of the function; "" if it is not known."""
        return {"model_type": "custom", "factory": getattr(model, "factory", "")}

    def save(
        self, model: nn.Module, directory: Path, class_names: Sequence[str] | None = None
    ) -> None:
        """Write the weights, the name of the function, and the class names."""
        whole: Any = model
        if class_names is not None:
            # The number of logits of a user's top is not known without running it.
            whole.class_names = label_names(class_names, len(class_names))
        config = dict(self.config_of(model))
        if names := getattr(whole, "class_names", ()):
            config["class_names"] = list(names)
        write_model(model, config, directory)


LIBRARY = CustomLibrary()


def _call(model_name: str, name: str, num_labels: int | None) -> object:
    """Call a function as all are called: with the number of classes, if it takes that."""
    factory = _load_function(name)
    signature = inspect.signature(factory)
    takes_labels = "num_labels" in signature.parameters
    arguments = {"num_labels": num_labels} if takes_labels and num_labels is not None else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"The function '{name}' cannot be called: {error}. fedsplit gives it num_labels, if it "
            "takes that and the number of classes is known, and nothing else. Give all arguments "
            "a default."
        ) from None
    try:
        return factory(**arguments)
    except FedSplitError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"The model '{model_name}' cannot be loaded: {reason.rstrip('.')}. It is what the "
            f"function '{name}' makes: check that function."
        ) from error


def check_apart(who: str, model: JoinedModel) -> None:
    """Refuse a parameter in two parts: client and server would train two copies of it.

    Parameters
    ----------
    who : str
        Says whose model it is, for the message.
    model : JoinedModel
        The three parts.

    Raises
    ------
    ModelError
        Names the parameter.
    """
    part_of: dict[int, str] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        part, _, rest = path.partition(".")
        first = part_of.setdefault(id(parameter), part)
        if first != part and parameter.requires_grad:
            raise ModelError(
                f"{who} a {first} and a {part} that share the parameter {rest}. Each part would "
                "train its own copy: give each a module of its own."
            )


def _load_function(name: str) -> Callable[..., Any]:
    found = load_reference(name, key="model.name")
    if not callable(found):
        raise ModelError(f"model.name = '{name}' is no function; {_EXAMPLE}.")
    return found
