"""A config as the text of a TOML file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from fedsplit.config.run import Config, Scalar
from fedsplit.objects import arguments_of


def flwr_command(path: Path, *, deployed: bool) -> str:
    """Return the command with which ``flwr run`` continues a run from its resume.toml.

    CONNECTION stands for the name that Flower's configuration gives the SuperLink of a run whose
    SuperNodes are the sites' own (`deployed`).
    """
    connection = "CONNECTION " if deployed else ""
    return f"flwr run . {connection}--stream --run-config {shlex.quote(str(path))}"


def config_toml(config: Config, path: Path, *, deployed: bool = False) -> str:
    """Return a config as TOML with every key. Its first line is the command that runs it.

    Parameters
    ----------
    config : Config
        What to write.
    path : Path
        The file that the text is for.
    deployed : bool
        See `flwr_command`.
    """
    command = f"fedsplit run {shlex.quote(str(path))}"
    if config.resume:
        command = flwr_command(path, deployed=deployed)
    elif config.run_name:
        again = shlex.quote(f"run-name={config.run_name}-again")
        command += f" --set {again}"
    if objects := arguments_of(config.to_flat()):  # the command line has none to give
        again = ", ".join(f"{argument}=..." for argument in objects)
        command = f"fedsplit.simulate({str(path)!r}, {again})"
    if not command.isprintable():  # a comment cannot hold a line break
        command = f"fedsplit run {path.name}"
    lines = [f"# {command}"]
    section = ""
    # In TOML, keys without a table come before the first table.
    for key, value in sorted(config.to_flat().items(), key=lambda item: "." in item[0]):
        table, _, name = key.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{table}]"]
        lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON and TOML share their escapes, except that TOML requires one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
