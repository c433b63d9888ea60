"""The server's end of a session whose streams may break: each frame is answered exactly once.

The last answer is kept. A client that connects again says how many answers it has. If it lacks the
last one, it is given it again, and the frame is not handled a second time. Otherwise the server
waits for the next frame.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fedsplit.channel.codec import decode, encode
from fedsplit.channel.endpoint import Session, SessionHost
from fedsplit.channel.frame import Kind
from fedsplit.channel.opening import Opening
from fedsplit.errors import ChannelError, DamagedError, FedSplitError
from fedsplit.meter import METER

_STEPS = (Kind.SMASHED_DATA, Kind.EVALUATION)


class ResumableSession:
    """One session, over any number of streams of which only the newest counts.

    Parameters
    ----------
    reconnect_seconds : float
        How long a client can be without a stream between two answers; 0 = its first break ends
        the session.

    Attributes
    ----------
    answered : int
        The number of frames that have been answered.
    ended : bool
        Whether the session has ended: it has finished, or cannot go on.
    """

    def __init__(self, reconnect_seconds: float) -> None:
        self.answered = 0
        self.ended = False
        self._last_answer = b""
        self._sent = False  # whether a stream was there to take it
        self._busy = False  # whether a frame is being handled
        self._reconnect_seconds = self._seconds_left = reconnect_seconds
        self._session: Session | None = None
        self._refusal: FedSplitError | None = None
        self._stream = 0
        self._cancel: Callable[[], object] = _no_stream
        self._lost_at = 0.0
        self._timer: threading.Timer | None = None
        self._handling = threading.Lock()  # held while a frame is handled, which may take long
        self._switching = threading.Lock()  # held for a moment, within the other or alone
        self._idle = threading.Condition(self._switching)

    def attach(self, cancel: Callable[[], object]) -> tuple[int, int]:
        """Take a stream in place of the one before, which ends. `cancel` ends it from this side.

        Returns
        -------
        tuple[int, int]
            The number of the stream, and how many frames have been answered, or will be because
            one is being handled. The client need not send that one again.
        """
        with self._switching:
            self._stream += 1
            stream, end_stream_before, self._cancel = self._stream, self._cancel, cancel
            answered = self.answered + self._busy
            self._idle.notify_all()  # the stream before waits for nothing any more
        end_stream_before()
        return stream, answered

    def settle(
        self, host: SessionHost, opening: Opening, stream: int, answered: int
    ) -> bytes | None:
        """Wait until no frame is being handled; return the answer that the client lacks, if any.

        Raises
        ------
        FedSplitError
            If the host refuses the token, the session is over, the client has other answers
            than it was given, or (DamagedError) fewer frames were answered than it was told.
        """
        with self._switching:
            while self._busy and stream == self._stream:
                self._idle.wait()
            if stream != self._stream:
                return None
        with self._handling:
            try:
                self._check(opening)
                if self._session is None:
                    self._session = host.open(opening.token, self._end)
                if self.answered < answered:
                    raise DamagedError("The frame that was being handled has got no answer.")
            except FedSplitError:
                self.lost(stream)  # it has ended the stream before, and does not replace it
                raise
            self.stop_timer()
            if opening.answers == self.answered:
                return None
            if self._sent:
                self._session.traffic.repeated_bytes += len(self._last_answer)
            self._sent = True
            return self._last_answer

    def _check(self, opening: Opening) -> None:
        """Refuse a stream that cannot continue the session."""
        if self._refusal is not None:
            raise self._refusal
        if self.ended and opening.answers != self.answered - 1:
            raise ChannelError(
                "Refused: the session of this token has ended. A token is valid for one session "
                "of one round."
            )
        if not 0 <= self.answered - opening.answers <= 1:
            raise ChannelError(
                f"Refused: the client has {opening.answers} answers in this session, but "
                f"{self.answered} were given."
            )

    def handle(self, stream: int, data: bytes, *, again: bool = False) -> bytes | None:
        """Answer a frame; None if nothing more can be answered on this stream.

        Parameters
        ----------
        stream : int
            The number of the stream on which it came.
        data : bytes
            The frame.
        again : bool
            Whether it was sent before, on a stream that broke.

        Raises
        ------
        DamagedError
            If it was changed on its way: then it counts as not received.
        FedSplitError
            If it is refused.
        """
        with self._handling:
            session = self._session
            if stream != self._stream or self.ended or session is None:
                return None
            frame = decode(data)
            if frame.kind is Kind.ABANDON:
                self._close("the client gave up before it had finished")
                return None
            with self._switching:
                if stream != self._stream:
                    return None
                self._busy = True
            session.traffic.uplink_bytes += len(data)
            session.traffic.repeated_bytes += len(data) if again else 0
            try:
                answer = session.handle(frame)
                encoded = encode(answer)
            except BaseException:
                with self._switching:
                    self._free()
                raise
            session.traffic.downlink_bytes += len(encoded)
            METER.count(
                steps=frame.kind in _STEPS, uplink_bytes=len(data), downlink_bytes=len(encoded)
            )
            with self._switching:
                self._free()
                self._last_answer, self._sent = encoded, stream == self._stream
                self.answered += 1
                self._seconds_left = self._reconnect_seconds
                self.ended = self.ended or answer.kind is Kind.FINISHED
                return encoded if self._sent else None

    def _free(self) -> None:
        self._busy = False
        self._idle.notify_all()

    def refuse(self, error: FedSplitError) -> None:
        """End the session for a reason that every later stream is told too."""
        with self._handling:
            self._refusal = self._refusal or error
            self._close(str(error))

    def lost(self, stream: int) -> None:
        """Give a client whose stream has ended time to connect again."""
        with self._switching:
            if stream != self._stream or self.ended or self._timer is not None:
                return
            self._lost_at = time.monotonic()
            self._timer = threading.Timer(self._seconds_left, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def stop_timer(self) -> None:
        """Let the time to connect again stand still."""
        with self._switching:
            if self._timer is not None:
                self._timer.cancel()
                self._seconds_left -= time.monotonic() - self._lost_at
                self._timer = None

    def _expire(self) -> None:
        with self._handling:
            if self._timer is not threading.current_thread():
                return  # it was stopped in the meantime
            limit = f"channel.reconnect-timeout = {self._reconnect_seconds:g} seconds"
            self._close(
                f"its stream broke, and it did not connect again within {limit}"
                if self._reconnect_seconds
                else "its stream broke before it had finished"
            )

    def _close(self, reason: str) -> None:
        """End the session; `_handling` is held."""
        if not self.ended:
            self.ended = True
            self._refusal = self._refusal or ChannelError(
                f"Refused: the session is closed ({reason})."
            )
            if self._session is not None:
                self._session.close(reason)

    def _end(self, reason: str) -> None:
        """Take it that the host has ended the session, perhaps while a frame is being handled."""
        self.ended = True
        self._refusal = ChannelError(f"Refused: the round is over for this client ({reason}).")
        self._cancel()


def _no_stream() -> None:
    """End the stream before the first one: there is none."""
