"""How many connections the split server holds, whoever opens them."""

from __future__ import annotations

import resource

from fedsplit.errors import ChannelError

_OTHER_FILES = 256
"""Open files that the process needs besides connections."""
_LARGEST = 2**20

HANDSHAKE_SECONDS, IDLE_SECONDS = 10.0, 5.0
"""How long a connection can be without its handshake, and without a stream.

A client opens one connection for one stream at once; one that is silent for longer is a stranger.
"""


def connection_options(max_streams: int) -> list[tuple[str, int]]:
    """Return gRPC's options that bound the connections, after raising this process's own limit.

    Parameters
    ----------
    max_streams : int
        How many streams, each on a connection of its own, there must be room for.

    Raises
    ------
    ChannelError
        If the system does not allow that many open files.
    """
    room = _raised_limit() - _OTHER_FILES
    if room < max_streams:
        raise ChannelError(
            f"This process may open {room + _OTHER_FILES} files (ulimit -Hn), but the streams of "
            f"this run need {max_streams} and {_OTHER_FILES} more. Raise the limit, or lower "
            "num-clients or fraction-train."
        )
    return [
        ("grpc.max_allowed_incoming_connections", room),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
    ]


def _raised_limit() -> int:
    """Raise the soft limit of open files to the hard one, if the system lets us; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _LARGEST if hard == resource.RLIM_INFINITY else min(hard, _LARGEST)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _LARGEST if soft == resource.RLIM_INFINITY else min(soft, _LARGEST)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS has a lower limit than it says
        return soft
    return most
