from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsplit import Config
from fedsplit.certificates import make_certificates
from fedsplit.checking import check, check_shards
from fedsplit.errors import ConfigError, DataError, FedSplitError, ModelError
from fedsplit.models.builtin import BUILTIN_MODELS
from fedsplit.tls import check_certificates
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("device", "abacus", ConfigError),
        ("device", "cuda:77", ConfigError),
        ("device", "meta", ConfigError),
        ("aggregation.name", "Nope", ConfigError),
        ("split.cut-layer", 6, ConfigError),
        ("model.name", "./nowhere", ModelError),
        ("data.name", "./nowhere", DataError),
    ],
)
def test_what_cannot_run(
    tiny: dict[str, object], key: str, value: object, kind: type[FedSplitError]
) -> None:
    with pytest.raises(kind, match=str(value)) as caught:
        check(Config.load(tiny, {key: value}))
    assert caught.value.exit_code == 2


def test_certificates_are_checked_before_anything_starts(
    tiny: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Break it: leave out a check, or refuse a run in one process, which has no use for them."""
    make_certificates(tmp_path, hosts=["split.example.org"], num_clients=1)
    certificate, key = str(tmp_path / "server.pem"), tmp_path / "server.key"
    with_tls = Config.load(
        tiny,
        {
            "channel.certificate": certificate,
            "channel.private-key": str(key),
            "channel.advertise": "split.example.org:0",
        },
    )
    key.chmod(0o644)
    check_certificates(with_tls.channel)
    assert f"'{key}' can be read by every user" in caplog.text
    with pytest.raises(ConfigError, match=r"is for split\.example\.org, not for '127\.0\.0\.1'"):
        check_certificates(Config.load(with_tls, {"channel.advertise": ""}).channel)
    key.unlink()
    with pytest.raises(ConfigError, match=r"server's private key '.*' cannot be read"):
        check_certificates(with_tls.channel)
    check(with_tls)  # in one process nothing needs them


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("make_pair", "The bottom returns tuple. Let it return a tensor, or a dict"),
        ("make_too_few", r"returns \[B, 9\]. Its top must return the logits \[B, 10\]"),
        ("fail", "cannot be loaded: no such table. It is what the function .* check that function"),
    ],
)
def test_a_model_of_ones_own_that_cannot_train_is_refused(
    tiny: dict[str, object], name: str, words: str
) -> None:
    """Break it: look at the output in the first step; "Target 9 is out of bounds" is said then."""
    with pytest.raises(ModelError, match=words):
        check(Config.load(tiny, {"model.name": f"tests.models.own:{name}"}))


def test_dropout_is_a_warning(
    tiny: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(Config.load(tiny))
    assert caplog.records == []
    config = {**BUILTIN_MODELS["vit-nano"], "attention_probs_dropout_prob": 0.125}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(Config.load(tiny, {"model.name": str(tmp_path)}))
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "fedsplit.checking")
    assert "(attention_probs_dropout_prob = 0.125)" in record.getMessage()
    assert "Set these to 0" in record.getMessage()


def test_shards_are_counted_without_their_validation_part() -> None:
    keys = {"data.partitioner": "iid", "data.validation-fraction": 0.5}  # 28 images each: 14, 14
    keys["last-batch"] = "drop"
    check_shards(Config.load(TINY, {**keys, "batch-size": 14}))
    with pytest.raises(ConfigError, match="has 14 training images"):
        check_shards(Config.load(TINY, {**keys, "batch-size": 15}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"strategy": "sequential", "aggregation.name": "Krum"},
            r"aggregation\.name = 'Krum' has nothing to aggregate.*'sequential'.*'FedAvg'",
        ),
        (
            {"strategy": "full", "split.topology": "u-shaped"},
            r"topology = 'u-shaped' has no effect with strategy = 'full'",
        ),
        (
            {"split.topology": "u-shaped", "split.cut-layer": 5},
            r"cut-layer = 5 leaves the server without a stage.*1 to 4\.",
        ),
        ({"split.top-layer": 3}, r"split.top-layer = 3 needs split.topology = 'u-shaped'"),
        (
            {"split.topology": "u-shaped", "split.cut-layer": 3, "split.top-layer": 3},
            r"split.top-layer = 3 must be above split.cut-layer = 3",
        ),
        (
            {
                "strategy": "tests.extensions.local_loss:LocalLoss",
                "split.topology": "u-shaped",
            },
            r"'u-shaped' does not work with .*LocalLossClient sends labels.*'vanilla'",
        ),
        (
            {"split.topology": "u-shaped", "split.top-layer": 9},
            r"split.top-layer = 9 .*Set it to 1 to 5",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(FedSplitError, match=message) as caught:
        check(Config.load(keys))
    assert caught.value.exit_code == 2
