"""The channel with TLS: who gets in, and what the others are told."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import torch

from fedsplit.channel import grpc_stream
from fedsplit.channel.codec import encode
from fedsplit.channel.connect import connect
from fedsplit.channel.endpoint import SessionHost
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import GrpcChannel
from fedsplit.channel.grpc_stream import GrpcStream
from fedsplit.channel.tls import ClientTls, Identity, ServerTls, exposed
from fedsplit.errors import ChannelError, ConfigError
from tests.channel.certificates import Certificates
from tests.channel.hosts import EchoHost
from tests.channel.proxy import FaultyProxy

Serve = Callable[..., GrpcChannel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    channels: list[GrpcChannel] = []

    def start(
        host: SessionHost,
        tls: ServerTls | None,
        address: str = "127.0.0.1:0",
        advertise: str = "",
    ) -> GrpcChannel:
        channels.append(
            GrpcChannel(
                host,
                address=address,
                advertise=advertise,
                tls=tls,
                max_streams=8,
                reconnect_seconds=10.0,
            )
        )
        return channels[-1]

    yield start
    for channel in channels:
        channel.close()


def stream_to(address: str, tls: ClientTls | None, token: str = "t") -> GrpcStream:
    return GrpcStream(
        address, token, step_timeout=20.0, max_frame_bytes=4096, reconnect_timeout=30.0, tls=tls
    )


def frame_of(step: int = 0) -> Frame:
    return Frame(Kind.SMASHED_DATA, step, {"cut.hidden": torch.arange(3.0)})


@pytest.mark.parametrize("mutual", [False, True])
def test_frames_go_there_and_back_encrypted(
    serve: Serve, made: Certificates, *, mutual: bool
) -> None:
    host = EchoHost()
    channel = serve(host, made.server(mutual=mutual))
    with stream_to(channel.address, made.client("client-0" if mutual else None)) as stream:
        for step in range(3):
            assert stream.exchange(frame_of(step)).tensors["cut.hidden"].tolist() == [0.0, 1.0, 2.0]
    traffic = host.sessions["t"].traffic
    assert traffic.uplink_bytes == 3 * len(encode(frame_of()))  # TLS's own bytes do not count


def test_a_server_with_tls_sends_nothing_to_a_client_without(
    serve: Serve, made: Certificates
) -> None:
    host = EchoHost()
    channel = serve(host, made.server())
    stream = GrpcStream(
        channel.address, "t", step_timeout=3, max_frame_bytes=99, reconnect_timeout=0
    )
    with pytest.raises(ChannelError), stream:
        stream.exchange(frame_of())
    assert host.sessions == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "asks for a client certificate (channel.client-ca). Start this SuperNode with"),
        ("other/client-0", "does not accept this client's certificate"),
    ],
)
def test_mutual_tls_refuses_a_client_with_one_clear_error(
    serve: Serve, made: Certificates, name: str | None, said: str
) -> None:
    """Break it: pass `require_client_auth=False`, or let `handshake_fault` return None."""
    host = EchoHost()
    channel = serve(host, made.server(mutual=True))
    with stream_to(channel.address, made.client("client-0"), "good") as good:
        good.exchange(frame_of(0))
        began = time.monotonic()
        with (
            pytest.raises(ChannelError) as raised,
            stream_to(channel.address, made.client(name)) as stream,
        ):
            stream.exchange(frame_of())
        assert time.monotonic() - began < 10  # it is no use to connect again
        good.exchange(frame_of(1))
    assert said in str(raised.value)
    assert channel.address in str(raised.value)
    assert list(host.sessions) == ["good"]


def test_a_client_does_not_connect_with_an_expired_certificate(made: Certificates) -> None:
    with pytest.raises(
        ConfigError, match=r"This client's certificate '.*' expired on .* UTC, and it is"
    ):
        stream_to("127.0.0.1:1", made.client("expired-client"))


def test_a_server_does_not_accept_an_expired_certificate(serve: Serve, made: Certificates) -> None:
    """The client's own check does not protect the server: here it is left out."""

    class Unchecked(Identity):
        def read(self) -> tuple[bytes, bytes]:
            return self.private_key.read_bytes(), self.certificate.read_bytes()

    host = EchoHost()
    channel = serve(host, made.server(mutual=True))
    expired = made.identity("expired-client")
    tls = ClientTls(made.ca, Unchecked(expired.certificate, expired.private_key, "The"))
    with (
        pytest.raises(ChannelError, match="does not accept"),
        stream_to(channel.address, tls) as stream,
    ):
        stream.exchange(frame_of())
    assert host.sessions == {}


def test_a_client_refuses_a_server_of_another_ca(serve: Serve, made: Certificates) -> None:
    host = EchoHost()
    channel = serve(host, made.server())
    tls = made.client(ca=made.directory / "other" / "ca.pem")
    with pytest.raises(ChannelError) as raised, stream_to(channel.address, tls) as stream:
        stream.exchange(frame_of())
    assert "none of root-certificates" in str(raised.value)
    assert "node config" in str(raised.value)
    assert host.sessions == {}


def test_a_client_refuses_a_server_of_another_name(serve: Serve, made: Certificates) -> None:
    host = EchoHost()
    channel = serve(host, made.server(), advertise="localhost:0")
    tls = made.server("elsewhere/server")
    other = serve(host, tls, advertise="split.example.org:0")
    port = other.address.rpartition(":")[2]
    assert other.address == f"split.example.org:{port}"
    with (
        pytest.raises(ChannelError, match=r"not for '127\.0\.0\.1'"),
        stream_to(f"127.0.0.1:{port}", made.client()) as stream,
    ):
        stream.exchange(frame_of())
    with stream_to(channel.address, made.client()) as stream:
        stream.exchange(frame_of())


def test_a_client_with_tls_refuses_a_server_without(serve: Serve, made: Certificates) -> None:
    channel = serve(EchoHost(), None)
    with (
        pytest.raises(ChannelError, match="does not speak TLS"),
        stream_to(channel.address, made.client()) as stream,
    ):
        stream.exchange(frame_of())


@pytest.mark.parametrize("when", ["before the handshake", "after the handshake", "with noise"])
def test_a_broken_connection_is_not_taken_for_a_refusal(
    serve: Serve, made: Certificates, when: str
) -> None:
    """The first connection is gRPC's, the second asks why it broke, the third finds the server.

    Break it: return what `_fault` says without a second try.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.directory / "server.pem", made.directory / "server.key")
    breaks: dict[str, Callable[[socket.socket], object]] = {
        "before the handshake": lambda client: None,
        "after the handshake": lambda client: context.wrap_socket(client, server_side=True).close(),
        "with noise": lambda client: client.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
    }
    host = EchoHost()
    channel = serve(host, made.server())
    with (
        FaultyProxy(channel.address, first=[lambda client: None, breaks[when]]) as proxy,
        stream_to(proxy.address, made.client()) as stream,
    ):
        stream.exchange(frame_of())
    assert list(host.sessions) == ["t"]


def test_a_session_that_had_an_answer_asks_for_no_reason(
    serve: Serve, made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks a connection that was let in is the network. Break it: ask after each break."""
    monkeypatch.setattr(grpc_stream, "handshake_fault", lambda *_: "was not asked.")
    channel = serve(EchoHost(), made.server())
    with (
        FaultyProxy(channel.address) as proxy,
        stream_to(proxy.address, made.client()) as stream,
    ):
        stream.exchange(frame_of(0))
        proxy.cut_all()
        stream.exchange(frame_of(1))


def test_a_server_that_is_not_there_is_waited_for(made: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    stream = GrpcStream(
        address, "t", step_timeout=5, max_frame_bytes=99, reconnect_timeout=0.5, tls=made.client()
    )
    began = time.monotonic()
    with pytest.raises(ChannelError, match="ended step 0"), stream:
        stream.exchange(frame_of())
    assert time.monotonic() - began > 0.1


def test_without_tls_no_client_connects_to_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"198.51.100.7:1', off this machine.*root-certificates"):
        connect("198.51.100.7:1", "t", step_timeout=1, max_frame_bytes=99)


@pytest.mark.parametrize(
    ("name", "advertise", "said"),
    [
        ("expired-server", "", "expired on"),
        ("elsewhere/server", "", "is for split.example.org, .*, not for '127.0.0.1'"),
        ("elsewhere/server", "a.b.example.net:1", "not for 'a.b.example.net'"),
        ("client-0", "", "is for no host"),
        ("nowhere", "", "cannot be read: No such file"),
    ],
)
def test_a_server_does_not_start_with_a_certificate_that_clients_would_refuse(
    made: Certificates, name: str, advertise: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        GrpcChannel(
            EchoHost(),
            address="127.0.0.1:0",
            advertise=advertise,
            tls=made.server(name),
            max_streams=1,
        )


def test_a_wildcard_name_covers_one_label(serve: Serve, made: Certificates) -> None:
    serve(EchoHost(), made.server("elsewhere/server"), advertise="a.example.net:9400")


def test_a_pair_that_is_swapped_is_called_so(made: Certificates) -> None:
    pair = made.identity("client-0")
    with pytest.raises(ConfigError, match=r"'.*client-0\.key' is a private key\. Exchange"):
        Identity(pair.private_key, pair.certificate, "This client's").read()


def test_a_missing_file_is_named_with_what_it_is_for(made: Certificates) -> None:
    missing = made.directory / "nothing.key"
    with pytest.raises(ConfigError, match=r"This client's private key '.*nothing\.key' cannot be"):
        Identity(made.identity("client-0").certificate, missing, "This client's").read()


def test_a_key_that_every_user_can_read_is_named(made: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "some.key"
    key.write_bytes(made.identity("client-0").private_key.read_bytes())
    key.chmod(0o640)
    assert not exposed(key)
    key.chmod(0o644)
    assert f"'{key}' can be read by every user of this machine (mode 644)" in exposed(key)


@pytest.mark.parametrize("what", ["other key", "no key", "encrypted", "no certificate"])
def test_a_pair_that_cannot_be_used_is_named(made: Certificates, tmp_path: Path, what: str) -> None:
    pair = made.identity("client-0")
    certificate, key = pair.certificate, pair.private_key
    if what == "other key":
        key = made.identity("server").private_key
    elif what == "no certificate":
        certificate = tmp_path / "some.pem"
        certificate.write_text("hello")
    else:
        key = tmp_path / "some.key"
        key.write_text("hello" if what == "no key" else _encrypted(pair.private_key))
    with pytest.raises(ConfigError) as raised:
        Identity(certificate, key, "This client's").read()
    assert str(certificate) in str(raised.value)
    assert "PEM" in str(raised.value)


def _encrypted(path: Path) -> str:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(path.read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"secret")
    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret).decode()


def test_roots_without_a_certificate_are_refused(made: Certificates, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("hello")
    with pytest.raises(ConfigError, match="holds no certificate"):
        ClientTls(tmp_path / "roots.pem").credentials()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(serve: Serve, made: Certificates) -> None:
    channel = serve(EchoHost(), made.server())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(made.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    port = int(channel.address.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_grpc_refuses_frames_of_a_client_without_a_certificate(
    serve: Serve, made: Certificates
) -> None:
    """Whatever our own client checks: the server's side alone must hold."""
    host = EchoHost()
    channel = serve(host, made.server(mutual=True))
    credentials = grpc.ssl_channel_credentials(made.ca.read_bytes())
    with grpc.secure_channel(channel.address, credentials) as stranger:
        method: grpc.StreamStreamMultiCallable[bytes, bytes]
        method = stranger.stream_stream("/fedsplit.SplitLearning/Session")
        call = method(iter([b"x"]), timeout=5)
        with pytest.raises(grpc.RpcError):
            next(call)
    assert host.sessions == {}
