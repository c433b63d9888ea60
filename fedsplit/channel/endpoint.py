"""The interfaces of the channel's two ends, for every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

from fedsplit.channel.frame import Frame
from fedsplit.channel.ledger import Traffic

OnRevoke = Callable[[str], object]
"""Called with the reason when the server ends a session, to free the transport's thread."""


def nothing(reason: str) -> None:
    """Do nothing: the `OnRevoke` of a transport without threads to free."""


class Session(Protocol):
    """The server's end of one participant's round, whatever streams carry it.

    Frames of one session never overlap; those of different sessions may. `close` may be called at
    any time, from any thread.
    """

    traffic: Traffic

    def handle(self, frame: Frame) -> Frame:
        """Answer one frame. A `ChannelError` refuses it and ends the stream."""

    def close(self, reason: str) -> None:
        """End the session; unless it has finished, its contribution is dropped."""


class SessionHost(Protocol):
    """What a channel serves: the split server, seen from the wire."""

    def knows(self, token: str) -> bool:
        """Return whether `open` may accept a token."""

    def open(self, token: str, on_revoke: OnRevoke = nothing) -> Session:
        """Return the session that this token was issued for, or raise `ChannelError`."""

    @property
    def max_frame_bytes(self) -> int:
        """Length of the longest legal frame."""


class Stream(Protocol):
    """The client's end of one participant's round."""

    def exchange(self, frame: Frame) -> Frame:
        """Send a frame and wait for its answer."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Close the stream; without a finished session the server drops the contribution."""


class Channel(Protocol):
    """A channel that accepts streams until it is closed."""

    @property
    def address(self) -> str:
        """What clients connect to."""

    def close(self) -> None:
        """Refuse new streams and end the open ones."""
