"""Code and files that a model's configs name: refused, left out, or run as the user allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsplit.errors import ModelError
from fedsplit.objects import is_object

_FACTORY = "factory"
_TRUST = "set model.trust = true (in Python trust=True; for plan and predict --trust)"
_CODE = ("auto_map", "custom_pipelines", "custom_generate", "kernel_config")
_ATTENTION = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
_QUANTIZED = ("quantization_config", "compression_config")
_OUTPUTS = (
    *("return_dict", "use_return_dict", "torchscript"),
    *("output_attentions", "output_hidden_states"),
)
"""What a model returns beside its logits, or in another form: fedsplit asks for the logits."""
_LEFT_OUT = {
    *(*_CODE, *_ATTENTION, *_QUANTIZED, *_OUTPUTS),
    *("_attn_implementation_autoset", "use_kernels", "trust_remote_code", "transformers_weights"),
    *("fusion_config", "distributed_config"),
}


def check_code(config: Mapping[str, Any], path: Path, *, trust: bool) -> None:
    """Refuse a config that names code, unless the user trusts its directory.

    Even then, only the function that is its ``factory`` is called: nothing here runs other code
    that a file names.

    Parameters
    ----------
    config : Mapping[str, Any]
        The contents of config.json or preprocessor_config.json.
    path : Path
        The file.
    trust : bool
        As `model.trust`.

    Raises
    ------
    ModelError
        Names the file, the code and the remedy.
    """
    factory = config.get(_FACTORY)
    if not trust and factory is not None and not is_object(str(factory)):
        raise ModelError(
            f"The file '{path}' names code: factory = {factory!r:.200}. A model directory may come "
            f"from a stranger, so the function is not called. If you know it, {_TRUST}."
        )
    for key, value in _entries(config):
        if value in (None, {}, [], False):
            continue
        if key in _QUANTIZED:
            raise ModelError(
                f"The file '{path}' has {key}: its weights are quantised, and fedsplit trains "
                "weights that are not. Use the checkpoint from which it was made."
            )
        if not trust and (key in _CODE or (key in _ATTENTION and _is_kernel(value))):
            raise ModelError(
                f"The file '{path}' names code: {key} = {value!r:.200}. fedsplit does not run it. "
                f"Remove {key}; or, to load the weights into the class of the same model_type that "
                f"its library has, {_TRUST}."
            )


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what libraries would follow to code, to kernels or to other files."""
    return {key: _cleaned(value) for key, value in config.items() if key not in _LEFT_OUT}


def _cleaned(value: object) -> object:
    if isinstance(value, dict):
        return without_code(value)
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    """Yield every key of every object, at any depth, with its value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item
            yield from _entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item)


def _is_kernel(value: object) -> bool:
    """Return whether an implementation of attention is none of the library's own names."""
    names = value.values() if isinstance(value, dict) else [value]
    return not all(isinstance(name, str) and name.isidentifier() for name in names)
