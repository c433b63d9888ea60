"""What a client can check of the split server's answers, whose logits it does not see.

A server that answers "loss 0, all correct" may be lying, and no client can tell. But it can tell
scores that no batch has, and a gradient that would ruin its part in one step.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsplit.channel.frame import Frame, Kind
from fedsplit.split.checks import refused
from fedsplit.split.magnitude import magnitudes
from fedsplit.split.payload import Content
from fedsplit.split.wire import LOSS, NUM_CORRECT

SMALLEST_GRADIENT = 1.0
"""Smaller gradients of one example's loss are taken for this: the first images may be easy ones."""


class AnswerChecks:
    """Checks answers whose names, shapes and finiteness are right.

    Parameters
    ----------
    factor : float
        How many times as large as all before the values of a cut gradient may be; 0 = as large as
        they like.
    largest : Mapping[str, float]
        What the client has seen in the run so far, by tensor; empty = nothing.
    cross_entropy : bool
        Whether the loss is one, and so at least 0.
    """

    def __init__(
        self,
        factor: float = 0.0,
        largest: Mapping[str, float] | None = None,
        *,
        cross_entropy: bool = False,
    ) -> None:
        self._factor = factor
        self._cross_entropy = cross_entropy
        self.largest = dict(largest or {})

    def check(self, frame: Frame, content: Content) -> None:
        """Refuse scores that no batch has, and a cut gradient that is too large.

        Raises
        ------
        ChannelError
            Names the value and its bound.
        """
        if LOSS in content.scores:
            self._check_scores(frame, content)
        if frame.kind is Kind.CUT_GRADIENT:
            self._check_gradient(frame, content)

    def _check_scores(self, frame: Frame, content: Content) -> None:
        loss, num_correct = content.scores[LOSS].item(), content.scores[NUM_CORRECT].item()
        if not 0 <= num_correct <= content.batch_size:
            raise refused(
                frame, f"has {num_correct} correct predictions for {content.batch_size} examples"
            )
        if self._cross_entropy and loss < 0.0:
            raise refused(
                frame,
                f"has the loss {loss:.6g}, and a cross-entropy is at least 0 (a client rule with "
                "another loss sets cross_entropy = False)",
            )

    def _check_gradient(self, frame: Frame, content: Content) -> None:
        """Take notice of a cut gradient; the first of a run is compared with nothing."""
        # The gradient of a mean over B examples: that of one example is B times as large.
        found = {n: value * content.batch_size for n, value in magnitudes(content.state).items()}
        for name, value in found.items():
            seen = self.largest.get(name)
            if self._factor and seen is not None:
                shown = max(seen, SMALLEST_GRADIENT)
                if value > self._factor * shown:
                    raise refused(
                        frame,
                        f"has values up to {value:.3g} for an example in '{name}', where this "
                        f"client has seen {shown:.3g} so far: more than "
                        f"channel.cut-gradient-factor = {self._factor:g} times as large; lower "
                        "learning-rate, if the split server is honest",
                    )
        for name, value in found.items():
            self.largest[name] = max(value, self.largest.get(name, 0.0))
