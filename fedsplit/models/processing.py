"""A model's own image processing, between preprocessor_config.json and an `InputSpec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsplit.errors import ModelError
from fedsplit.input_spec import InputSpec

BILINEAR = 2
MAX_EDGE = 8192
"""Of images, in pixels."""
_RESCALE = 1 / 255
_EDGES = ("height", "width", "shortest_edge")
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
_LARGEST, _SMALLEST_STD = 1e6, 1e-6
"""Of mean and standard deviation; pixels have values from 0 to 255."""
_NUMBERS: Mapping[str, tuple[Any, float, float]] = {
    "resample": (int, 0, 5),
    "rescale_factor": (int | float, 1e-6, 1e6),
}


def input_spec_of(
    model_name: str, processor: Mapping[str, Any], channels: int, size: int | Sequence[int]
) -> InputSpec:
    """Return the images a model takes.

    Parameters
    ----------
    model_name : str
        For messages.
    processor : Mapping[str, Any]
        As in preprocessor_config.json. The defaults are: resize to the model's size, bilinear,
        mean and standard deviation 0.5.
    channels : int
        Of the images that the model takes.
    size : int | Sequence[int]
        Height and width in the model's config; those of the processor take precedence.

    Raises
    ------
    ModelError
        If images are neither grey nor RGB, or a number makes no sense.
    """
    if channels not in (1, 3):
        raise ModelError(
            f"The model '{model_name}' takes images of {channels} channels (num_channels in its "
            "config.json), but images are read as grey or RGB. Choose a model for 1 channel or 3."
        )
    _check_numbers(model_name, processor)
    _check_forms(model_name, processor)
    resizes = processor.get("do_resize", True)
    resized = _size(processor.get("size")) if resizes else None
    crop = _size(processor.get("crop_size")) if processor.get("do_center_crop") else None
    own = (size, size) if isinstance(size, int) else (size[0], size[1])
    if isinstance(crop, int):
        crop = (crop, crop)
    height, width = crop or (resized if isinstance(resized, tuple) else own)
    mean, std = _statistics(model_name, processor, channels)
    resample = processor.get("resample")  # 0 is a filter: the nearest pixel
    return InputSpec(
        channels,
        height,
        width,
        mean,
        std,
        resample=BILINEAR if resample is None else int(resample),
        resize=(resized if resizes else "never") if crop else None,
    )


def spec_of_images(model_name: str, images: Callable[[], tuple[int, int, int]] | None) -> InputSpec:
    """Return what a model that does not say it takes: images of the size that there is.

    Parameters
    ----------
    model_name : str
        For the message.
    images : Callable[[], tuple[int, int, int]] | None
        Returns channels, height and width.

    Raises
    ------
    ModelError
        If there are no images to ask.
    """
    if images is None:
        raise ModelError(
            f"The model '{model_name}' does not say what images it takes. Give its bottom an "
            "attribute: input_spec = InputSpec(channels, height, width, mean, std)."
        )
    channels, height, width = images()
    return InputSpec(channels, height, width, (0.5,) * channels, (0.5,) * channels)


def processor_of(spec: InputSpec) -> dict[str, Any]:
    """Return what preprocessor_config.json says of such images."""
    size: dict[str, int] = {"height": spec.height, "width": spec.width}
    crop: dict[str, Any] = {}
    if spec.resize is not None:
        crop = {"do_center_crop": True, "crop_size": size}
        if isinstance(spec.resize, int):
            size = {"shortest_edge": spec.resize}
        elif spec.resize != "never":
            size = {"height": spec.resize[0], "width": spec.resize[1]}
    return {
        "do_resize": spec.resize != "never",
        "size": size,
        "resample": spec.resample,
        **crop,
        "do_rescale": True,
        "rescale_factor": _RESCALE,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def _check_forms(model_name: str, processor: Mapping[str, Any]) -> None:
    """Refuse switches that are neither on nor off, and what would be left out without a word."""
    faults = {
        key: "Write true or false"
        for key in _SWITCHES
        if not (processor.get(key) is None or isinstance(processor[key], bool))
    }
    if processor.get("do_flip_channel_order"):
        faults["do_flip_channel_order"] = "The model takes BGR images, and fedsplit gives RGB"
    for key, switch in (("size", "do_resize"), ("crop_size", "do_center_crop")):
        value, used = processor.get(key), processor.get(switch, key == "size")
        if used and value is not None and _size(value) is None:
            faults[key] = "Write height and width, or shortest_edge"
    for key, remedy in faults.items():
        raise ModelError(
            f"The preprocessor_config.json of '{model_name}' has {key} = {processor[key]!r:.80}. "
            f"{remedy}."
        )


def _check_numbers(model_name: str, processor: Mapping[str, Any]) -> None:
    """Refuse sizes, a filter or a factor that no processor has."""
    found = {key: processor[key] for key in ("resample", "rescale_factor") if key in processor}
    for key in ("size", "crop_size"):
        value = processor.get(key)
        if isinstance(value, Mapping):
            found |= {f"{key}.{edge}": value[edge] for edge in _EDGES if edge in value}
        elif isinstance(value, int):
            found[key] = value
    for key, value in found.items():
        kind, lowest, highest = _NUMBERS.get(key, (int, 1, MAX_EDGE))
        may_be_none = key.endswith(("resample", "rescale_factor", "shortest_edge"))
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if not (value is None and may_be_none) and not (is_number and lowest <= value <= highest):
            raise ModelError(
                f"The preprocessor_config.json of '{model_name}' has {key} = {value!r:.80}. Give a "
                f"number from {lowest:g} to {highest:g}."
            )


def _size(value: object) -> int | tuple[int, int] | None:
    """Return the shortest edge, or height and width; None if it says neither."""
    if isinstance(value, Mapping):
        if "height" in value and "width" in value:
            return (int(value["height"]), int(value["width"]))
        return int(value["shortest_edge"]) if value.get("shortest_edge") else None
    # Older processors wrote one number, which means a square.
    return (value, value) if isinstance(value, int) else None


def _statistics(
    model_name: str, processor: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    normalise = processor.get("do_normalize", True)
    mean = _per_channel(processor.get("image_mean", 0.5) if normalise else 0.0, channels)
    std = _per_channel(processor.get("image_std", 0.5) if normalise else 1.0, channels)
    if mean is None or std is None or min(std) < _SMALLEST_STD:
        raise ModelError(
            f"The preprocessor_config.json of '{model_name}' has image_mean "
            f"{processor.get('image_mean')!r} and image_std {processor.get('image_std')!r}, but "
            f"the model takes {channels} channels. Give {channels} finite numbers each, up to "
            f"{_LARGEST:g}, image_std from {_SMALLEST_STD:g}."
        )
    factor = 1.0
    if processor.get("do_rescale", True):
        factor = processor.get("rescale_factor") or _RESCALE
    if abs(factor - _RESCALE) > 1e-6:  # mean and deviation absorb the rest
        mean, std = (tuple(x * _RESCALE / factor for x in numbers) for numbers in (mean, std))
    return mean, std


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...] | None:
    numbers = list(value) if isinstance(value, Sequence) else [value]
    if len(numbers) == 1:
        numbers *= channels
    finite = (
        isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= _LARGEST
        for number in numbers
    )
    if len(numbers) != channels or not all(finite):
        return None
    return tuple(float(number) for number in numbers)
