"""Machines that are not one: a network namespace for the server and for each site, shaped links.

Docker cannot run everywhere; the processes, their addresses and their certificates are the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from fedsplit.certificates import make_certificates
from tests.e2e.flower import START_SECONDS, environment, program
from tests.e2e.processes import ProcessGroup

PORT = 9300
CHANNEL_PORT = 9400


def can_make_namespaces() -> bool:
    """Tell whether this process may make network namespaces."""
    name = f"fsprobe{os.getpid()}"
    with contextlib.suppress(OSError):
        if (
            subprocess.run(
                ["ip", "netns", "add", name], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0
    return False


class Sites:
    """A SuperLink with TLS and node authentication, and SuperNodes that must be registered.

    Use it as a context manager: leaving it ends every process and removes every namespace.

    Parameters
    ----------
    num_sites : int
        Sites, each with a namespace and an address.
    rate : str
        Of each link, as ``tc`` writes it, in either direction.
    """

    def __init__(self, num_sites: int, *, rate: str = "50mbit") -> None:
        self._prefix = f"fs{os.getpid()}"
        self._names = ["hub", *(f"s{number}" for number in range(num_sites))]
        self._rate = rate
        self._groups: list[ProcessGroup] = []
        self.home = Path(tempfile.mkdtemp(prefix="fs", dir="/tmp"))
        self.certificates = self.home / "certificates"
        self.log = self.home / "log.txt"
        self.server = self.address(0)

    def __enter__(self) -> Self:
        try:
            self._network()
            make_certificates(
                self.certificates,
                hosts=[self.server, "127.0.0.1", "localhost"],
                num_clients=len(self._names) - 1,
            )
            self._superlink()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for group in reversed(self._groups):
            group.end()
        for name in [*self._names, "net"]:
            subprocess.run(
                ["ip", "netns", "del", self._prefix + name], capture_output=True, check=False
            )
        shutil.rmtree(self.home, ignore_errors=True)

    def address(self, number: int) -> str:
        """Return the IP address of the server (0) or of a site (from 1)."""
        return f"10.77.{os.getpid() % 250}.{number + 1}"

    def inside(self, name: str) -> list[str]:
        """Return what starts a command in a namespace: ``hub`` or ``s0``, ``s1`` and so on."""
        return ["ip", "netns", "exec", self._prefix + name]

    def _network(self) -> None:
        switch = self.inside("net")
        subprocess.run(["ip", "netns", "add", f"{self._prefix}net"], check=True)
        _call(*switch, "ip", "link", "add", "br0", "type", "bridge")
        _call(*switch, "ip", "link", "set", "br0", "up")
        for number, name in enumerate(self._names):
            space, port = self._prefix + name, f"p{number}"
            subprocess.run(["ip", "netns", "add", space], check=True)
            _call(*switch, *f"ip link add {port} type veth peer name eth0 netns {space}".split())
            _call(*switch, *f"ip link set {port} master br0 up".split())
            here = self.inside(name)
            _call(*here, *f"ip addr add {self.address(number)}/24 dev eth0".split())
            for device in ("eth0", "lo"):
                _call(*here, "ip", "link", "set", device, "up")
            shape = f"root tbf rate {self._rate} burst 64kb latency 400ms".split()
            _call(*switch, "tc", "qdisc", "add", "dev", port, *shape)
            _call(*here, "tc", "qdisc", "add", "dev", "eth0", *shape)

    def _superlink(self) -> None:
        made = self.certificates
        self._start(
            "hub",
            *("flower-superlink", "--host", "0.0.0.0", "--port", str(PORT)),
            *("--ssl-ca-certfile", str(made / "ca.pem")),
            *("--ssl-certfile", str(made / "server.pem")),
            *("--ssl-keyfile", str(made / "server.key")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        )
        (self._home("hub") / "config.toml").write_text(
            f'[superlink]\ndefault = "sites"\n\n[superlink.sites]\naddress = "{self.server}:{PORT}"'
            f'\nroot-certificates = "{made / "ca.pem"}"\n',
            encoding="utf-8",
        )
        deadline = time.monotonic() + START_SECONDS
        probe = ["curl", "-sf", "--cacert", str(made / "ca.pem")]
        while subprocess.run(
            [*self.inside("hub"), *probe, f"https://{self.server}:{PORT}/health"],
            capture_output=True,
            check=False,
        ).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"flower-superlink does not start:\n{self.log.read_text()}")
            time.sleep(0.2)

    def add_site(self, number: int, node_config: Mapping[str, str | int]) -> None:
        """Register a site's key, and start its SuperNode."""
        key = self.home / f"node-{number}"
        _call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key))
        done = self.call("flwr", "supernode", "register", f"{key}.pub", "sites")
        assert done.returncode == 0, done.stdout
        flat = " ".join(
            f"{name}={value}" if isinstance(value, int) else f'{name}="{value}"'
            for name, value in node_config.items()
        )
        self._start(
            f"s{number}",
            *("flower-supernode", "--superlink", f"{self.server}:{PORT}"),
            *("--root-certificates", str(self.certificates / "ca.pem")),
            *("--auth-supernode-private-key", str(key), "--node-config", flat),
        )

    def call(
        self, name: str, *arguments: str, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program at the server, and return what it printed."""
        return subprocess.run(
            [*self.inside("hub"), program(name), *arguments],
            env=environment(self._home("hub")),
            cwd=self._home("hub"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _home(self, name: str) -> Path:
        home = self.home / name
        home.mkdir(exist_ok=True)
        return home

    def _start(self, space: str, name: str, *arguments: str) -> None:
        home = self._home(space)
        command = [*self.inside(space), program(name), *arguments]
        self._groups.append(ProcessGroup(command, env=environment(home), cwd=home, log=self.log))


def _call(*command: str) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{_joined(command)}: {done.stderr}")


def _joined(command: Sequence[str]) -> str:
    return " ".join(command)
