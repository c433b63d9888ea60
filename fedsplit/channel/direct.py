"""The in-process engine's channel: a function call, with the same checks and byte counts."""

from __future__ import annotations

import itertools
from typing import Self

from fedsplit.channel.codec import encoded_length
from fedsplit.channel.endpoint import Session, SessionHost
from fedsplit.channel.frame import Frame
from fedsplit.errors import ChannelError

SCHEME = "direct:"
_hosts: dict[str, SessionHost] = {}
_numbers = itertools.count()


class DirectChannel:
    """Serve `host` to this process under a new address."""

    def __init__(self, host: SessionHost) -> None:
        self.address = f"{SCHEME}{next(_numbers)}"
        _hosts[self.address] = host

    def close(self) -> None:
        """Forget the host."""
        _hosts.pop(self.address, None)


class DirectStream:
    """A stream to a host in this process."""

    def __init__(self, address: str, token: str) -> None:
        host = _hosts.get(address)
        if host is None:
            raise ChannelError(f"No split server of this process has the address '{address}'.")
        self._session: Session = host.open(token)

    def exchange(self, frame: Frame) -> Frame:
        """Hand the frame over, counting the bytes that it would take on the wire."""
        self._session.traffic.uplink_bytes += encoded_length(frame)
        answer = self._session.handle(frame)
        self._session.traffic.downlink_bytes += encoded_length(answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close("the client closed the stream before it had finished")
