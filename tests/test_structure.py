"""The plan of the house: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("fedsplit", "strategies")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.name.endswith("_pb2.py")
]

# A group may import from the lines before its own, and not from its neighbours in one line.
LAYERS: list[set[str]] = [
    {"fedsplit.errors", "fedsplit.blame", "fedsplit.bounded_json"},
    {"fedsplit.objects", "fedsplit.tensor_headers"},
    {
        "fedsplit.addresses",
        "fedsplit.certificates",
        "fedsplit.collector",
        "fedsplit.interruption",
        "fedsplit.locks",
        "fedsplit.screen",
        "fedsplit.boundary",
        "fedsplit.cache",
        "fedsplit.devices",
        "fedsplit.drawing",
        "fedsplit.names",
        "fedsplit.seeding",
        "fedsplit.threads",
        "fedsplit.exchanged_state",
        "fedsplit.input_spec",
        "fedsplit.references",
        "fedsplit.arrays",
        "fedsplit.fields",
        "fedsplit.snapshot",
        "fedsplit.flower_internals",
        "fedsplit.messages",
        "fedsplit.meter",
    },
    {
        "fedsplit.config",
        "fedsplit.scratch",
        "fedsplit.run_log",
        "fedsplit.superlink",
        "fedsplit.observers",
    },
    {"fedsplit.links"},
    {"fedsplit.data", "fedsplit.models"},
    {"fedsplit.initial_model"},
    {"fedsplit.own_code"},
    {"fedsplit.channel"},
    {"fedsplit.split"},
    {"fedsplit.results", "fedsplit.dtype_check", "fedsplit.batch_check"},
    {"strategies", "fedsplit.report", "fedsplit.client_model", "fedsplit.wiring"},
    {"fedsplit.algorithms", "fedsplit.resume", "fedsplit.tls"},
    {"fedsplit.participants"},
    {"fedsplit.checking"},
    {"fedsplit.preparation", "fedsplit.absolute_paths", "fedsplit.plan", "fedsplit.predict"},
    {"fedsplit.scoring", "fedsplit.costs"},
    {
        "fedsplit.channel_address",
        "fedsplit.client_errors",
        "fedsplit.experiment",
        "fedsplit.client_state",
        "fedsplit.client_side",
    },
    {"fedsplit.rounds", "fedsplit.inputs", "fedsplit.pool", "fedsplit.serving"},
    {"fedsplit.client_app", "fedsplit.server_app"},
    {"fedsplit.inprocess", "fedsplit.flower_run", "fedsplit.app_project"},
    {"fedsplit.simulation"},
    {"fedsplit.compare", "fedsplit.new"},
    {"fedsplit.cli"},
    {"fedsplit.__main__"},
]
# Below the split there is no run to speak of.
FORBIDDEN = [
    ("fedsplit.models", "fedsplit.config"),
    ("fedsplit.channel", "fedsplit.config"),
    ("fedsplit.channel", "fedsplit.models"),
    ("fedsplit.channel", "fedsplit.data"),
    ("fedsplit.split", "fedsplit.data"),
    ("fedsplit.split", "fedsplit.models"),
    ("fedsplit.results", "fedsplit.channel"),
    ("fedsplit.results", "fedsplit.split"),
    ("strategies", "fedsplit.data"),
    ("strategies", "fedsplit.models"),
    ("strategies", "fedsplit.channel"),
    ("strategies", "fedsplit.results"),
    ("fedsplit.client_app", "strategies"),
    ("fedsplit.report", "fedsplit.models"),
]
# The only homes of a library; a name ending in a dot is a folder.
HOMES = {
    "flwr": (
        "fedsplit.arrays",
        "fedsplit.flower_internals",
        "fedsplit.messages",
        "fedsplit.client_app",
        "fedsplit.client_errors",
        "fedsplit.client_state",
        "fedsplit.serving",
        "fedsplit.rounds",
        "fedsplit.server_app",
        "fedsplit.inprocess",
        "fedsplit.simulation",
        "strategies.",
    ),
    "flwr_datasets": ("fedsplit.data.partition",),
    "transformers": ("fedsplit.models.",),
    "torchvision": ("fedsplit.models.",),
    "timm": ("fedsplit.models.",),
    "peft": ("fedsplit.models.trainable",),
    "datasets": ("fedsplit.data.",),
    "grpc": ("fedsplit.channel.grpc", "fedsplit.channel.grpc_stream", "fedsplit.channel.tls"),
    "cryptography": ("fedsplit.certificates", "fedsplit.channel.tls"),
    "prometheus_client": ("fedsplit.results.prometheus",),
    "typer": ("fedsplit.cli.", "fedsplit.plan.command"),
    "pydantic": (
        "fedsplit.config.",
        "fedsplit.compare.config",
        "fedsplit.messages",
        "fedsplit.report.results_check",
    ),
    "pickle": (),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def group_of(name: str) -> str | None:
    return next(
        (group for layer in LAYERS for group in layer if f"{name}.".startswith(f"{group}.")), None
    )


def edges() -> set[tuple[str, str, str]]:
    """Return (importing module, its group, imported group) of all imports within the house."""
    return {
        (module_of(path), group, target)
        for path in FILES
        if (group := group_of(module_of(path)))
        for name in imports_of(path)
        if (target := group_of(name)) and target != group
    }


def test_every_file_has_its_layer() -> None:
    homeless = [module_of(path) for path in FILES if group_of(module_of(path)) is None]
    assert homeless == ["fedsplit"]  # which only points to the public names
    names = {name for path in FILES for name in imports_of(path) if name.startswith("fedsplit")}
    assert [name for name in names if group_of(name) is None] == []


def test_imports_run_one_way() -> None:
    level = {group: number for number, layer in enumerate(LAYERS) for group in layer}
    found = edges()
    assert len(found) > 50
    assert [edge for edge in found if level[edge[2]] >= level[edge[1]]] == []


def test_what_must_not_know_each_other_does_not() -> None:
    found = {(group, target) for _, group, target in edges()}
    assert [pair for pair in FORBIDDEN if pair in found] == []


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_is_imported_at_its_home_only(library: str) -> None:
    users = [
        f"{module_of(path)}."
        for path in FILES
        if any(name.split(".")[0] == library for name in imports_of(path))
    ]
    homes = tuple(home.rstrip(".") + "." for home in HOMES[library])
    assert [user for user in users if not user.startswith(homes)] == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno
        >= 60 + len((ast.get_docstring(node) or "").splitlines())
    ]
    assert long == []
