"""The Compose files name options that Flower's programs have, and say what the page says.

Docker is not needed: what the containers would run is parsed by the programs' own parsers.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from fedsplit.config import NodeConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorials/several-machines.md").read_text(encoding="utf-8")
PARSERS = {
    "flower-superlink": _parse_args_run_superlink,
    "flower-supernode": _parse_args_run_supernode,
}


def services(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "deploy" / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = loaded["services"]
    return found


def parsed(command: list[str]) -> argparse.Namespace:
    program, *arguments = command
    return PARSERS[program]().parse_args(arguments)


def node_config(text: str) -> NodeConfig:
    pairs = dict(pair.split("=", 1) for pair in shlex.split(text))
    return NodeConfig.from_flat(
        {key: int(value) if value.isdigit() else value for key, value in pairs.items()}
    )


def test_the_server_is_encrypted_and_knows_its_sites() -> None:
    (service,) = services("server.yml").values()
    options = parsed(service["command"])
    assert options.enable_supernode_auth
    assert not options.insecure
    assert (options.ssl_certfile, options.ssl_keyfile) == (
        "/certificates/server.pem",
        "/certificates/server.key",
    )
    assert [port.split(":")[0] for port in service["ports"]] == ["9300", "9400"]


def test_a_site_proves_who_it_is() -> None:
    (service,) = services("site.yml").values()
    set_by_the_site = {"${SITE}": "0", "${SERVER}": "split.example.org"}
    command = list(service["command"])
    for name, value in set_by_the_site.items():
        command = [part.replace(name, value) for part in command]
    options = parsed(command)
    assert not options.insecure
    node = node_config(options.node_config)
    assert node.partition_id == 0
    assert node.certificate == "/certificates/client-0.pem"
    assert "ports" not in service


@pytest.mark.parametrize("program", sorted(PARSERS))
def test_the_pages_commands_have_these_options(program: str) -> None:
    text = PAGE.replace("\\\n", " ")
    start = text.index(f"    {program} ")
    end = text.index("\n\n", start)
    command = shlex.split(text[start:end])
    options = parsed(command)
    if program == "flower-supernode":
        assert node_config(options.node_config).partition_id == 0
    else:
        assert options.enable_supernode_auth


def test_what_the_image_copies_is_there() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
