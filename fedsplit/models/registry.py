"""All known families: those of `families/`, and those that `register_family` adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from fedsplit.errors import ModelError
from fedsplit.models.families import BUILTIN
from fedsplit.models.family import Family
from fedsplit.models.hub import Source
from fedsplit.models.stages import Root, Stage

_families = {family.name: family for family in BUILTIN}


def register_family(  # noqa: PLR0913 - all but the name by keyword
    name: str,
    *,
    model_class: type[nn.Module] | str,
    stages: Callable[[Root], Sequence[Stage]],
    model_type: str | None = None,
    head: Sequence[str] = ("classifier.",),
    ignored_keys: Sequence[str] = (),
    image_processor: str | None = None,
    library: str = "transformers",
    image_shape: Callable[[Root], tuple[int, int, int]] | None = None,
    unused_weights: Sequence[str] = (),
    size_step: Callable[[Root], int] | None = None,
) -> Family:
    """Add an architecture. It replaces a family of the same name.

    Parameters
    ----------
    name : str
        What error messages call it.
    model_class : type[nn.Module] | str
        The class of the whole model, or ``"module:Class"`` to import it only when needed.
        Subclasses belong to the family too.
    stages : Callable[[model], Sequence[Stage]]
        Lists the stages of such a model: embeddings, blocks, head. The last is the head.
    model_type : str, optional
        ``model_type`` of its Hugging Face config, for models loaded by name. If several families
        share it, the config's ``architectures`` decide.
    head : Sequence[str]
        Prefixes of the classifier's keys. These weights may be drawn afresh for another number
        of labels. Empty for a model that does not classify.
    ignored_keys : Sequence[str]
        Prefixes of checkpoint keys that belong to other heads and that this class lacks.
    image_processor : str, optional
        Class that preprocessor_config.json names when the model is saved.
    library : str
        Module of `fedsplit.models.libraries` that loads its models by name, and saves them:
        ``custom`` for modules of your own that `model.name` makes with a function.
    image_shape : Callable[[config], tuple[int, int, int]], optional
        Reads channels, height and width of its images from its config, if neither this config
        nor the processor's states them in the usual way.
    unused_weights : Sequence[str]
        Prefixes of parameters that the class holds but its output does not use. They are frozen
        in every run, so that averaging cannot change their last bits, and clients leave them
        uninitialised.
    size_step : Callable[[model], int], optional
        The number of pixels that height and width of an image must be a multiple of. Give it only
        if the stages take images of any such size (`model.image-size`), by `interpolates`.

    Examples
    --------
    >>> from torch import nn
    >>> from fedsplit.models import Stage, register_family, stage_names
    >>> class Tiny(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
    >>> def tiny_stages(model):
    ...     return [
    ...         Stage("stem", ("stem",), lambda root, images: root.stem(images)),
    ...         Stage("head", ("head",), lambda root, hidden: root.head(hidden)),
    ...     ]
    >>> family = register_family("tiny", model_class=Tiny, stages=tiny_stages)
    >>> stage_names(Tiny())
    ('stem', 'head')
    """
    if not isinstance(model_class, str):
        model_class = _qualified_name(model_class)
    family = Family(
        name,
        model_class,
        stages,
        model_type,
        tuple(head),
        tuple(ignored_keys),
        image_processor,
        library,
        image_shape,
        tuple(unused_weights),
        size_step,
    )
    _families[name] = family
    return family


def family_of(model: nn.Module) -> Family:
    """Return the family of a model object.

    Raises
    ------
    ModelError
        If no registered family knows its class.
    """
    ancestry = [_qualified_name(ancestor) for ancestor in type(model).__mro__]
    for ancestor in ancestry:
        for family in _families.values():
            if family.model_class == ancestor:
                return family
    raise ModelError(f"A model of class {type(model).__name__} {_UNKNOWN.format(_known())}")


def family_of_config(config: object, num_labels: int | None = None, *, name: str = "") -> Family:
    """Return the family of a Hugging Face config: the object, or config.json as a mapping.

    If several families have its ``model_type``, the one whose class is in ``architectures`` is
    chosen, else the first. If a number of labels is given, families that classify come first.

    Parameters
    ----------
    config : object
        The config.
    num_labels : int | None
        Number of classes, if the model is to classify images.
    name : str
        What the user calls the model, for the error message.

    Raises
    ------
    ModelError
        If no registered family has its ``model_type``.
    """
    if isinstance(config, Mapping):
        model_type, architectures = config.get("model_type"), config.get("architectures")
    else:
        model_type = getattr(config, "model_type", None)
        architectures = getattr(config, "architectures", None)
    alike = [f for f in _families.values() if model_type and f.model_type == model_type]
    if num_labels is not None:
        alike = [family for family in alike if family.head] or alike
    named = [family for family in alike if family.class_name in (architectures or [])]
    for family in named or alike:
        return family
    what = f"The model '{name}'" if name else "A config"
    raise ModelError(f"{what} with model_type {model_type!r} {_UNKNOWN.format(_known())}")


def is_builtin(family: Family) -> bool:
    """Return whether a family is one of `families/`, unchanged."""
    return family in BUILTIN


def is_made_by_user(source: Source) -> bool:
    """Return whether the user's own code makes a model: a function, or a registered class."""
    if source.made_by_function:
        return True
    # A config can stand for two families: with a classifier, and without.
    families = (family_of_config(source.config, labels, name=source.name) for labels in (None, 1))
    return not all(map(is_builtin, families))


_UNKNOWN = (
    "belongs to no known family, so its stages cannot be found. Known families: {}. "
    "Use one of them, or describe the model with fedsplit.register_family."
)


def _known() -> str:
    return ", ".join(f"{family.name} ({family.class_name})" for family in _families.values())


def _qualified_name(model_class: type) -> str:
    return f"{model_class.__module__}:{model_class.__qualname__}"
