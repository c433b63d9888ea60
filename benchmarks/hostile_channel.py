"""Throw hostile frames at a split server's door over TLS, each on a stream of its own.

    GRPC_VERBOSITY=ERROR uv run python -m benchmarks.hostile_channel --frames 20000

The frames are those of `benchmarks.hostile_frames`. Each comes with a token that is valid, which a
stranger would not have, so that nothing but the checks of the frame stands in its way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import grpc

from benchmarks.hostile_frames import (
    MAY_BE_LEGAL,
    MUTATIONS,
    STEP,
    WIRE,
    Parts,
    Random,
    conclude,
    good_frame,
    memory,
    show,
    structure,
)
from fedsplit.certificates import make_certificates
from fedsplit.channel.codec import decode
from fedsplit.channel.endpoint import OnRevoke, nothing
from fedsplit.channel.frame import Frame, Kind
from fedsplit.channel.grpc import METHOD, SERVICE, GrpcChannel
from fedsplit.channel.ledger import Traffic
from fedsplit.channel.opening import Opening
from fedsplit.channel.tls import ClientTls, Identity, ServerTls
from fedsplit.errors import ChannelError
from fedsplit.split.checks import check_order, refused

_WARM = 2000  # frames until the caches of the libraries are full


class Door:
    """Checks frames as a split server does, and notes what it has let in."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.token = ""
        self.let_in: list[Frame] = []

    @property
    def max_frame_bytes(self) -> int:
        """Longer than any frame here: gRPC would refuse those that are too long, unread."""
        return 2**20

    def knows(self, token: str) -> bool:
        """Return whether it is the token of the frame that is due."""
        return token == self.token

    def open(self, token: str, on_revoke: OnRevoke = nothing) -> Door:
        """Return the session, unless the token is another one."""
        if not self.knows(token):
            raise ChannelError("Refused: the token belongs to no participant.")
        return self

    def handle(self, frame: Frame) -> Frame:
        """Check a frame; one that is legal comes back."""
        if frame.kind is not Kind.SMASHED_DATA:
            raise refused(frame, "is not due")
        check_order(frame, step=STEP)
        WIRE.unpack(frame)
        self.let_in.append(frame)
        return frame

    def close(self, reason: str) -> None:
        """Do nothing: a session is its frame."""


class Found(NamedTuple):
    """What became of the frames.

    Attributes
    ----------
    outcomes : Counter[str]
        How many ended with each status of gRPC, or were ``accepted``.
    wrong : list[str]
        Frames that were accepted although they are not legal, or ended as nothing should.
    seconds : float
        The time for all.
    memory_bytes : tuple[int, int]
        Resident memory after the first frames, and at the end.
    """

    outcomes: Counter[str]
    wrong: list[str]
    seconds: float
    memory_bytes: tuple[int, int]


EXPECTED = ("INVALID_ARGUMENT", "DATA_LOSS", "accepted")


def throw(frames: int, directory: Path, *, seed: int = 0) -> Found:
    """Throw so many frames at a channel with certificates that are made in a directory."""
    make_certificates(directory, hosts=["127.0.0.1"], num_clients=1)
    pairs = {
        name: Identity(directory / f"{name}.pem", directory / f"{name}.key", "The benchmark's")
        for name in ("server", "client-0")
    }
    ca, door = directory / "ca.pem", Door()
    server = GrpcChannel(
        door, address="127.0.0.1:0", tls=ServerTls(pairs["server"], ca), max_streams=1024
    )
    good = good_frame()
    parts, legal = Parts.of(good), structure(decode(good))
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    began, first = time.perf_counter(), memory()
    credentials = ClientTls(ca, pairs["client-0"]).credentials()
    try:
        with grpc.secure_channel(server.address, credentials) as client:
            for number in range(frames):
                draw = Random(f"{seed} {number}")
                kind = draw.choice(list(MUTATIONS))
                door.token = f"token {number}"
                door.let_in.clear()
                outcome = _sent(client, door.token, MUTATIONS[kind](draw, good, parts))
                outcomes[outcome] += 1
                let_in = [structure(frame) for frame in door.let_in]
                if let_in not in ([], [legal]) or outcome not in EXPECTED:
                    wrong.append(f"frame {number} ({kind}): {outcome}, let in {let_in}")
                elif let_in and kind not in (*MAY_BE_LEGAL, "damaged", "fields"):
                    wrong.append(f"frame {number} ({kind}): accepted")
                if number == min(_WARM, frames // 2):
                    first = memory()
    finally:
        server.close()
    return Found(outcomes, wrong, time.perf_counter() - began, (first, memory()))


def _sent(client: grpc.Channel, token: str, data: bytes) -> str:
    method: grpc.StreamStreamMultiCallable[bytes, bytes] = client.stream_stream(
        f"/{SERVICE}/{METHOD}"
    )
    call = method(iter([data]), metadata=Opening(token).to_metadata(), timeout=30.0)
    try:
        next(call)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code.name
    except StopIteration:  # an ABANDON, which is not answered
        return "accepted"
    return "accepted"


def main() -> None:
    """Print what became of the frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = throw(arguments.frames, Path(folder))
    show(f"{arguments.frames:,} frames over mutual TLS in {found.seconds:.0f} s")
    show(", ".join(f"{name} {count:,}" for name, count in sorted(found.outcomes.items())))
    conclude(found.wrong, found.memory_bytes)


if __name__ == "__main__":
    main()
