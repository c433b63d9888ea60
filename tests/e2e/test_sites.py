"""Machines of their own, TLS both ways, a shaped link: the same bits and bytes as in one process.

Three sites of five have no certificate that the split server accepts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message

from fedsplit import simulate
from fedsplit.client_app import app as client_app
from fedsplit.flower_internals import error_reply
from tests.channel.certificates import Certificates, write_expired
from tests.e2e.flower import as_toml
from tests.e2e.processes import processes_of
from tests.e2e.runs import APP_DIR, SMALL, RunFiles, assert_same_weights
from tests.e2e.sites import CHANNEL_PORT, Sites, can_make_namespaces

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, for network namespaces"),
]

NUM_SITES = 5
CONFIG = SMALL | {"num-clients": NUM_SITES, "fraction-evaluate": 0.0, "run-name": "run"}
OTHER_CA, EXPIRED, WITHOUT = 2, 3, 4
REFUSED = {
    OTHER_CA: "does not accept this client's certificate",
    EXPIRED: "expired on",
    WITHOUT: "this SuperNode has none",
}
"""What is said, once, of each site that does not take part."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with Sites(NUM_SITES) as started:
        yield started
    for name in ("hub", *(f"s{number}" for number in range(NUM_SITES))):
        assert processes_of(started.home / name) == {}


def test_sites_train_over_tls_and_a_refused_certificate_costs_only_its_own_share(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break it: give `require_client_auth=False`, and other sites take part too."""
    made, stranger = sites.certificates, Certificates(tmp_path / "stranger").directory
    write_expired(made, "expired")
    pairs = {number: made / f"client-{number}" for number in (0, 1)}
    pairs |= {OTHER_CA: stranger / "client-0", EXPIRED: made / "expired"}
    for number in range(NUM_SITES):
        node: dict[str, str | int] = {"partition-id": number}
        node["channel-address"] = f"{sites.server}:{CHANNEL_PORT}"
        node["root-certificates"] = str(made / "ca.pem")
        if pair := pairs.get(number):
            node |= {"certificate": f"{pair}.pem", "private-key": f"{pair}.key"}
        sites.add_site(number, node)
    config = CONFIG | {
        "connect-timeout": 120.0,
        "channel.address": f"0.0.0.0:{CHANNEL_PORT}",
        "channel.advertise": f"{sites.server}:{CHANNEL_PORT}",
        "channel.certificate": str(made / "server.pem"),
        "channel.private-key": str(made / "server.key"),
        "channel.client-ca": str(made / "ca.pem"),
        "output-dir": str(tmp_path / "sites"),
    }
    run_config = tmp_path / "run.toml"
    run_config.write_text(as_toml(config), encoding="utf-8")

    done = sites.call(
        "flwr", "run", str(APP_DIR), "sites", "--stream", "--run-config", str(run_config)
    )

    directory = tmp_path / "sites" / "run"
    assert (directory / "summary.json").is_file(), done.stdout + sites.log.read_text()[-5000:]
    over_tls = RunFiles.read(directory)
    assert over_tls.rounds[0]["failed_clients"] == list(REFUSED)
    log = (directory / "log.txt").read_text()
    assert {number: log.count(said) for number, said in REFUSED.items()} == dict.fromkeys(
        REFUSED, 1
    ), log

    here = _without_sites(REFUSED, monkeypatch, tmp_path / "here")
    assert over_tls.num_bytes == here.num_bytes
    assert_same_weights(over_tls.weights, here.weights)


def _without_sites(
    failing: Collection[int], monkeypatch: pytest.MonkeyPatch, output: Path
) -> RunFiles:
    """Run the same in one process, where these clients fail before they send anything."""

    def failing_app(message: Message, context: Context) -> Message:
        training = message.metadata.message_type == "train"
        if training and context.node_config["partition-id"] in failing:
            return error_reply(message, "not admitted")
        return client_app(message, context)

    monkeypatch.setattr("fedsplit.inprocess.client_app", failing_app)
    return RunFiles.read(simulate(CONFIG, output_dir=str(output)).run_dir)
