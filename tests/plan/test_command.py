from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fedsplit import cli
from fedsplit.links import PROFILES

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``fedsplit plan`` in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsplit", "plan", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return code, said.out, said.err

    return run


def test_tables_fit_80_columns(call: Call) -> None:
    code, out, err = call("vit-nano")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert sum(line.startswith("   1 ") for line in out.splitlines()) == 2
    for said in ("embeddings", "block 4", "on 4g", "500 samples", "50 GFLOP/s"):
        assert said in out


@pytest.mark.parametrize("samples", ["500", "10000000"])
def test_no_number_is_cut_off(call: Call, samples: str) -> None:
    """Break it: let rich shorten what does not fit: 4.37 kB to "4.37 …", and 12:49:33 to "12:49:…".

    With one network there is one table.
    """
    networks = [part for name in PROFILES for part in ("--network", name)]
    custom = ("--network", "custom", "--uplink-mbps", "0.01", "--downlink-mbps", "1")
    _, out, _ = call("vit-nano", "--samples-per-client", samples, *networks, *custom)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert sum(line.startswith("   1 ") for line in out.splitlines()) == 3
    _, out, _ = call("vit-nano", "--samples-per-client", samples, "--network", "lan")
    assert sum(line.startswith("   1 ") for line in out.splitlines()) == 2


def test_json(call: Call, tmp_path: Path) -> None:
    picture = tmp_path / "cuts.png"
    code, out, err = call(
        *("vit-nano", "--json", "--batch-size", "8", "--num-labels", "7", "--network", "custom"),
        *("--network", "4g", "--uplink-mbps", "8", "--downlink-mbps", "80", "--plot", str(picture)),
    )
    assert (code, err) == (0, "")
    plan: dict[str, Any] = json.loads(out)
    assert plan["image_shape"] == [1, 28, 28]
    assert (plan["batch_size"], plan["num_labels"], plan["topology"]) == (8, 7, "vanilla")
    assert list(plan["links"]) == ["custom", "4g"]
    assert plan["links"]["4g"] == vars(PROFILES["4g"])
    assert [cut["cut_layer"] for cut in plan["cuts"]] == [1, 2, 3, 4, 5]
    assert plan["cuts"][4]["server_parameters"] == 2 * 64 + 64 * 7 + 7
    for cut in plan["cuts"]:
        assert list(cut["round_seconds"]) == ["custom", "4g"]
        assert cut["round_seconds"]["4g"] > cut["communication_seconds"]["4g"] > 0
    with Image.open(picture) as drawn:
        assert drawn.size == (2025, 660)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("vit-nano", "--network", "custom"),
            "network.uplink-mbps and network.downlink-mbps above 0",
        ),
        (("vit-nano", "--latency-ms", "3"), "set network.profile = 'custom'"),
        (("vit-nano", "--network", "5g"), "'5g' is not one of"),
        (("vit-nano", "--plot", "cuts.doc"), ".png"),
        (("vit-nano", "--plot", "no/such/cuts.png"), "give a file in a folder that exists"),
        (("vit-nano", "--dtype", "int8"), "'int8' is not one of"),
        (("vit-nano", "--batch-size", "0"), "0 is not in the range"),
        (("vit-nano", "--batch-size", "10000000"), "Use a smaller batch size"),
        (("vit-nano", "--client-gflops", "nan"), "nan must be from 0.001"),
        (("./no/such/model",), "does not exist"),
        (("no.module:make",), "cannot be imported"),
        ((), "MODEL"),
    ],
)
def test_a_refusal_is_one_paragraph(call: Call, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("fedsplit: ")
    assert "Traceback" not in err
    assert "\n\n" not in err
    assert len(err) < 1500
