from __future__ import annotations

from pathlib import Path

import pytest

from fedsplit.config import Config, NodeConfig
from fedsplit.errors import ConfigError
from fedsplit.tls import client_tls, server_tls

PLAIN = Config().channel
SERVER = {"channel.certificate": "s.pem", "channel.private-key": "s.key"}
WITH_TLS = Config.from_flat(SERVER | {"channel.root-certificates": "run.pem"}).channel
MUTUAL = Config.from_flat(SERVER | {"channel.client-ca": "clients.pem"}).channel
PAIR = {"certificate": "n.pem", "private-key": "n.key"}


def node(**values: str) -> NodeConfig:
    dashed = {key.replace("_", "-"): value for key, value in values.items()}
    return NodeConfig.from_flat({"partition-id": 0, **dashed})


def test_without_certificates_there_is_no_tls() -> None:
    assert server_tls(PLAIN) is None
    assert client_tls(PLAIN, node()) is None


def test_the_servers_files() -> None:
    tls = server_tls(MUTUAL)
    assert tls is not None
    assert tls.identity.certificate == Path("s.pem")
    assert tls.identity.private_key == Path("s.key")
    assert tls.client_ca == Path("clients.pem")


def test_a_nodes_roots_come_before_those_of_the_run() -> None:
    tls = client_tls(WITH_TLS, node(root_certificates="node.pem"))
    assert tls is not None
    assert tls.root_certificates == Path("node.pem")
    tls = client_tls(WITH_TLS, node())
    assert tls is not None
    assert (tls.root_certificates, tls.identity) == (Path("run.pem"), None)


def test_without_roots_the_public_ones_count() -> None:
    tls = client_tls(Config.from_flat(SERVER).channel, node())
    assert tls is not None
    assert tls.root_certificates is None


@pytest.mark.parametrize("own", [{"root_certificates": "node.pem"}, PAIR])
def test_a_node_that_asks_for_tls_gets_it_whatever_the_run_says(own: dict[str, str]) -> None:
    """Or a server could have its clients speak in the clear."""
    assert client_tls(PLAIN, node(**own)) is not None


def test_a_node_without_the_certificate_that_is_asked_for_is_told() -> None:
    with pytest.raises(ConfigError, match=r"asks for a client certificate \(channel.client-ca\)"):
        client_tls(MUTUAL, node())
    tls = client_tls(MUTUAL, node(**PAIR))
    assert tls is not None
    assert tls.identity is not None
    assert tls.identity.certificate == Path("n.pem")
