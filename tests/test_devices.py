from __future__ import annotations

import pytest
import torch

from fedsplit import Config
from fedsplit.checking import check
from fedsplit.devices import check_device, gpus_per_client
from fedsplit.errors import ConfigError
from fedsplit.flower_run import federation_config


@pytest.mark.parametrize("device", ["cuda:77", "meta", "gpu"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"'{device}' cannot be used here .*Use 'cpu'"):
        check_device(device)


def test_a_client_without_gpus_says_how_a_federation_asks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as Ray does
    with pytest.raises(ConfigError, match=r"client-resources-num-gpus=0\.1"):
        check_device("cuda:77")


@pytest.mark.parametrize(
    ("gpus", "at_once", "share"), [(1, 10, 0.1), (1, 3, 0.3333), (8, 4, 1.0), (2, 3, 0.6666)]
)
def test_clients_share_the_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, at_once: int, share: float
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert gpus_per_client("cuda", at_once) == share
    assert share * at_once <= gpus or share == 1.0
    assert gpus_per_client("cpu", at_once) == 0


def test_a_federation_asks_for_gpus_where_the_run_computes_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = Config.from_flat({"num-clients": 4, "max-concurrent-clients": 4, "device": "cuda"})
    assert federation_config(config).endswith("init-args-num-cpus=4 client-resources-num-gpus=0.25")


def test_a_numbered_gpu_is_refused_where_ray_chooses() -> None:
    with pytest.raises(ConfigError, match=r"Ray chooses.*'cuda'.*--engine inprocess"):
        gpus_per_client("cuda:1", 2)


def test_the_server_needs_its_own_device_only() -> None:
    """Clients may compute on GPUs that the server does not have, and the other way round."""
    config = Config.from_flat({"device": "cuda:77", "server.device": "cpu"})
    assert config.server_device == "cpu"
    check(Config.load(config, {"data.max-train-samples": 200}))
    with pytest.raises(ConfigError, match=r"server\.device = 'cuda:77' cannot be used here"):
        check(Config.from_flat({"server.device": "cuda:77"}))
    with pytest.raises(ConfigError, match=r"^device = 'cuda:77' cannot be used here"):
        check(Config.from_flat({"device": "cuda:77"}))
