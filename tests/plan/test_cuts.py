from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fedsplit import simulate
from fedsplit.config import Config
from fedsplit.errors import ConfigError, ModelError
from fedsplit.links import PROFILES
from fedsplit.models import save_model
from fedsplit.plan.cuts import Setting, plan_model, wire_of
from fedsplit.preparation import prepare
from fedsplit.split.traffic import stream_traffic
from tests.conftest import TINY, Run
from tests.models.families import qwen3_vl_toys, zoo

pytestmark = pytest.mark.usefixtures("undrawn")

Topology = Literal["vanilla", "u-shaped"]
# Equal shards of 36 training images: four batches of 8, and one of 4; two epochs, two rounds.
EQUAL: dict[str, Any] = {
    "data_partitioner": "iid",
    "data_max_train_samples": 160,
    "fraction_evaluate": 0.0,
}
EXPECTED_STEPS = [8, 8, 8, 8, 4] * 2


def _expected(name: str, cut: int, topology: Topology, **changes: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return the bytes of the whole run, from the shapes that plan uses."""
    from fedsplit.models.loading import input_spec
    from fedsplit.models.resolved import resolve
    from fedsplit.models.split import split_model
    from fedsplit.wiring import boundaries_of

    setting = Setting(name, batch_size=8, topology=topology, num_labels=10, **changes)
    model = split_model(resolve(name).skeleton(10), [cut])
    edges = boundaries_of(model, input_spec(name), u_shaped=topology == "u-shaped")
    wire = wire_of(model, *edges, setting)
    traffic = stream_traffic(wire, EXPECTED_STEPS).traffic
    return 8 * traffic.uplink_bytes, 8 * traffic.downlink_bytes


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_bytes_equal_those_of_a_run(run: Run, cut: int) -> None:
    """Break it: leave the labels out of a frame, or a last, smaller batch."""
    summary = run(split_cut_layer=cut, **EQUAL).summary
    found = (summary["cut_uplink_bytes"], summary["cut_downlink_bytes"])
    assert found == _expected("vit-nano", cut, "vanilla")


@pytest.mark.parametrize("cut", [1, 3])
def test_bytes_equal_those_of_a_u_shaped_run(run: Run, cut: int) -> None:
    summary = run(split_cut_layer=cut, split_topology="u-shaped", **EQUAL).summary
    found = (summary["cut_uplink_bytes"], summary["cut_downlink_bytes"])
    assert found == _expected("vit-nano", cut, "u-shaped")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return two models whose states are several tensors, each in its own directory."""
    from fedsplit.input_spec import InputSpec

    folder = tmp_path_factory.mktemp("models")
    swin = zoo.make("swin")
    save_model(swin, zoo.images_of(swin), folder / "swin")
    images = InputSpec(3, 8, 16, (0.5,) * 3, (0.5,) * 3)
    save_model(qwen3_vl_toys.classifier_of(), images, folder / "qwen3-vl")
    return {name: str(folder / name) for name in ("swin", "qwen3-vl")}


@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
@pytest.mark.parametrize("name", ["swin", "qwen3-vl"])
def test_bytes_of_a_state_of_several_tensors(
    several: dict[str, str], tmp_path: Path, name: str, topology: Topology
) -> None:
    summary = simulate(
        {**TINY, "output-dir": str(tmp_path), "model.name": several[name]},
        split_cut_layer=2,
        split_topology=topology,
        **EQUAL,
    ).summary
    found = (summary["cut_uplink_bytes"], summary["cut_downlink_bytes"])
    assert found == _expected(several[name], 2, topology)


@pytest.mark.parametrize("topology", ["vanilla", "u-shaped"])
def test_costs_equal_those_of_a_run(run: Run, topology: Topology) -> None:
    changes = {"strategy": "sflv2", "optimizer": "adam", "network_profile": "4g", **EQUAL}
    summary = run(split_cut_layer=3, split_topology=topology, **changes).summary
    setting = Setting(
        "vit-nano", batch_size=8, num_labels=10, topology=topology, links={"4g": PROFILES["4g"]}
    )
    cut = plan_model(setting).cuts[2]
    for side in ("client", "server"):
        for measure in ("parameters", "flops_per_sample", "memory_bytes"):
            assert getattr(cut, f"{side}_{measure}") == summary[f"{side}_{measure}"], measure


def test_round_time_equals_the_simulated_time_of_a_run(run: Run) -> None:
    changes = {"local_epochs": 1, "num_server_rounds": 1, "network_profile": "4g", **EQUAL}
    result = run(strategy="sflv2", **changes)
    setting = Setting(
        "vit-nano",
        batch_size=8,
        num_labels=10,
        samples_per_client=36,
        links={"4g": PROFILES["4g"]},
        client_gflops=1.0,
        server_gflops=2.0,
    )
    cut = plan_model(setting).cuts[0]
    # It leaves out Flower's headers of the weights.
    flower = result.rounds[0]["sync_uplink_bytes"] // 4 - cut.sync_bytes
    assert 0 < flower < 400 * 9
    late = 2 * 8 * flower / 12e6
    simulated = result.summary["simulated_communication_seconds"]
    assert cut.communication_seconds["4g"] == pytest.approx(simulated - late, rel=1e-9)
    computing = 36 * (cut.client_flops_per_sample / 1e9 + cut.server_flops_per_sample / 2e9)
    assert cut.round_seconds["4g"] == pytest.approx(simulated - late + computing, rel=1e-9)


def test_images_of_another_size_cost_what_a_run_measures(run: Run) -> None:
    changes = {"strategy": "sflv2", "optimizer": "adam", "model_image_size": 56, **EQUAL}
    summary = run(num_server_rounds=1, **changes).summary
    plan = plan_model(Setting("vit-nano", batch_size=8, num_labels=10, image_size=56))
    assert (plan.spec.height, plan.spec.width) == (56, 56)
    for measure in ("parameters", "flops_per_sample", "memory_bytes"):
        assert getattr(plan.cuts[0], f"client_{measure}") == summary[f"client_{measure}"], measure


def test_vit_b_16_at_cut_1() -> None:
    """The figure that fedsplit began with: 9.68 MB of activations and 9.68 MB of gradients."""
    setting = Setting("torchvision:vit_b_16", batch_size=32, dtype="float16")
    plan = plan_model(setting)
    cut = plan.cuts[0]
    payload = 32 * 197 * 768 * 2
    assert cut.smashed_bytes_per_step == cut.cut_gradient_bytes_per_step == payload == 9_682_944
    # Frames add labels, a header, step and kind to the tensors.
    assert 0 < cut.uplink_bytes_per_step - payload - 32 * 8 < 200
    assert 0 < cut.downlink_bytes_per_step - payload < 300
    assert len(plan.cuts) == 13
    totals = {c.client_parameters + c.server_parameters for c in plan.cuts}
    assert totals == {86_567_656}  # as torchvision states
    assert len({c.client_flops_per_sample + c.server_flops_per_sample for c in plan.cuts}) == 1


def test_nothing_has_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it: build the model with `empty_model`."""
    largest = 0
    empty_like = torch.empty_like

    def noting(tensor: torch.Tensor, **given: Any) -> torch.Tensor:  # noqa: ANN401
        nonlocal largest
        made = empty_like(tensor, **given)
        largest = max(largest, 0 if made.is_meta else made.numel())
        return made

    monkeypatch.setattr(torch, "empty_like", noting)
    plan_model(Setting("vit-nano"))
    assert largest == 0


def test_a_half_precision_dtype_halves_the_bytes() -> None:
    full, half = (
        plan_model(Setting("vit-nano", dtype=dtype)).cuts[1] for dtype in ("float32", "bfloat16")
    )
    assert full.smashed_bytes_per_step == 2 * half.smashed_bytes_per_step
    assert full.sync_bytes == 2 * half.sync_bytes
    assert full.client_activation_bytes > 1.9 * half.client_activation_bytes


def test_models_that_cannot_be_planned_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bytes of tensors.*Use a smaller batch size"):
        plan_model(Setting("vit-nano", batch_size=10**7))
    with pytest.raises(ModelError, match="no/such"):
        plan_model(Setting("./no/such"))


@pytest.mark.parametrize(("topology", "cuts"), [("vanilla", 5), ("u-shaped", 4)])
def test_every_cut_that_a_run_accepts_is_planned(
    topology: Topology, cuts: int, tmp_path: Path
) -> None:
    setting = Setting("vit-nano", topology=topology)
    assert [cut.cut_layer for cut in plan_model(setting).cuts] == list(range(1, cuts + 1))
    config = {"split.topology": topology, "output-dir": str(tmp_path)}
    prepare(Config.load(config, {"split.cut-layer": cuts}))
    with pytest.raises((ConfigError, ModelError)):
        prepare(Config.load(config, {"split.cut-layer": cuts + 1}))
