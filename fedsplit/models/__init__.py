"""Models as chains of stages. Importing this package does not import transformers."""

from fedsplit.models.checkpoint import save_model
from fedsplit.models.loading import (
    empty_bottom,
    empty_model,
    input_spec,
    load_model,
    load_split_model,
    skeleton,
)
from fedsplit.models.registry import register_family
from fedsplit.models.split import (
    SplitModel,
    join_parts,
    num_stages,
    split_model,
    stage_names,
)
from fedsplit.models.stages import InputSpec, Part, Stage, State, smashed_spec

__all__ = [
    "InputSpec",
    "Part",
    "SplitModel",
    "Stage",
    "State",
    "empty_bottom",
    "empty_model",
    "input_spec",
    "join_parts",
    "load_model",
    "load_split_model",
    "num_stages",
    "register_family",
    "save_model",
    "skeleton",
    "smashed_spec",
    "split_model",
    "stage_names",
]
