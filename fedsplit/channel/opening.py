"""What opens a stream: a token, and where the session before a break has got to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Self

from xxhash import xxh3_64_hexdigest

from fedsplit.errors import DamagedError

KEY = "fedsplit-opening"
"""The call metadata of a client."""
ANSWERED_KEY = "fedsplit-answered"
"""The initial metadata of the server: how many frames of the session it has answered."""
FINAL_KEY = "fedsplit-final"
"""The trailing metadata of the server with a refusal that another try would get too."""

Metadata = tuple[tuple[str, str], ...]


class Opening(NamedTuple):
    """What a client says when it opens a stream.

    Attributes
    ----------
    token : str
        Of a participant and a round.
    answers : int
        The number of answers that the client has.
    sends_again : bool
        Whether the client has sent its next frame before, on a stream that broke.
    """

    token: str
    answers: int = 0
    sends_again: bool = False

    def to_metadata(self) -> Metadata:
        """Return call metadata, with a checksum."""
        return ((KEY, _sealed(json.dumps(self))),)

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self:
        """Reverse `to_metadata`.

        Raises
        ------
        DamagedError
            If there is none, or not one that `to_metadata` returns.
        """
        text = _opened(metadata, KEY)
        if text is not None:
            with suppress(ValueError, RecursionError):  # what a stranger may have sealed
                match json.loads(text):
                    case [str(token), int(answers), bool(sends_again)] if answers >= 0:
                        return cls(token, answers, sends_again)
        raise DamagedError(
            f"The stream was opened without valid '{KEY}' metadata. Both ends must run the same "
            "version of fedsplit."
        )


def answered_metadata(answered: int) -> Metadata:
    """Return the server's initial metadata: how many frames it has answered, with a checksum."""
    return ((ANSWERED_KEY, _sealed(str(answered))),)


def read_answered(metadata: Iterable[tuple[str, str | bytes]]) -> int | None:
    """Reverse `answered_metadata`; None if it was not sent, or was changed on its way."""
    text = _opened(metadata, ANSWERED_KEY)
    return int(text) if text is not None and text.isdecimal() else None


def _sealed(text: str) -> str:
    return f"{xxh3_64_hexdigest(text.encode())} {text}"


def _opened(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str | None:
    """Return the text that `_sealed` was given; None if the checksum is not its own."""
    checksum, _, text = str(dict(metadata).get(key, "")).partition(" ")
    return text if xxh3_64_hexdigest(text.encode(errors="replace")) == checksum else None
