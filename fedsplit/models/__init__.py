"""Models as chains of stages. Importing this package does not import transformers."""

from fedsplit.boundary import State
from fedsplit.input_spec import InputSpec
from fedsplit.models.boundaries import smashed_spec
from fedsplit.models.checkpoint import save_model
from fedsplit.models.loading import input_spec, load_model, load_split_model
from fedsplit.models.registry import register_family
from fedsplit.models.resolved import ResolvedModel, resolve
from fedsplit.models.split import (
    SplitModel,
    hold_parts,
    join_parts,
    num_stages,
    split_model,
    stage_names,
)
from fedsplit.models.stages import Part, Stage

__all__ = [
    "InputSpec",
    "Part",
    "ResolvedModel",
    "SplitModel",
    "Stage",
    "State",
    "hold_parts",
    "input_spec",
    "join_parts",
    "load_model",
    "load_split_model",
    "num_stages",
    "register_family",
    "resolve",
    "save_model",
    "smashed_spec",
    "split_model",
    "stage_names",
]
