"""The client's side of split learning: a loss whose other half is computed by the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsplit.boundary import Boundary, State, by_name
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.frame import Frame, Kind
from fedsplit.errors import ChannelError
from fedsplit.split.answer_checks import AnswerChecks
from fedsplit.split.checks import check_order
from fedsplit.split.divergence import check_sent
from fedsplit.split.payload import Content
from fedsplit.split.steps import StepResult
from fedsplit.split.wire import LOSS, NUM_CORRECT, Names, Wire


class SplitSession:
    """One participant's session. The training loop around it reads like any PyTorch loop.

    Parameters
    ----------
    stream : Stream
        To the split server (see `fedsplit.channel.connect.connect`).
    wire : Wire
        What crosses the channel; the server has an equal one.
    names : Names
        The purpose, round and participant of the stream, for a codec that draws.
    own : Mapping[Kind, str]
        The user's own code that makes what is sent in frames of these kinds: it is named if that
        is not finite.
    checks : AnswerChecks | None
        What an answer may be, besides what the wire allows; None = any scores that batches can
        have, and gradients as large as they like.

    Examples
    --------
    With the labels at the server (vanilla):

    >>> with SplitSession(connect(address, token, ...), wire) as session:  # doctest: +SKIP
    ...     for images, labels in batches:
    ...         optimizer.zero_grad()
    ...         result = session.train_step(bottom(images), labels)
    ...         result.loss.backward()  # the server has sent the gradient at the cut
    ...         optimizer.step()
    ...     session.finish()

    With labels and top at the client (U-shaped), the loss is an ordinary one:

    >>> loss = cross_entropy(top(session.trunk(bottom(images))), labels)  # doctest: +SKIP

    Attributes
    ----------
    waited_seconds : float
        Time from sending each frame to receiving its answer, over all frames so far.
    """

    def __init__(
        self,
        stream: Stream,
        wire: Wire,
        names: Names = (),
        *,
        own: Mapping[Kind, str] = MappingProxyType({}),
        checks: AnswerChecks | None = None,
    ) -> None:
        self._checks = AnswerChecks() if checks is None else checks
        self._stream = stream
        self._wire = wire
        self._names = names
        self._own = own
        self._step = 0
        self.waited_seconds = 0.0

    def train_step(self, smashed: State, labels: Tensor) -> StepResult:
        """Send one batch; the server trains on it.

        Parameters
        ----------
        smashed : State
            The bottom's output for B examples, still in the autograd graph.
        labels : Tensor
            int64 [B].

        Returns
        -------
        StepResult
            ``loss.backward()`` continues with the cut gradient into the bottom. If the wire
            returns none, the loss is a plain number without a backward pass.

        Raises
        ------
        ChannelError
            If the server refuses the batch, cannot be reached, or answers out of order.
        """
        if not self._wire.cut_gradient:
            return self._scored(smashed, labels, Kind.CUT_GRADIENT)
        named = by_name(smashed)
        loss, num_correct = _ServerLoss.apply(self, labels, list(named), *named.values())
        return StepResult(loss, num_correct)

    def evaluate_step(self, smashed: State, labels: Tensor) -> StepResult:
        """Send one batch to be scored; nothing is trained."""
        return self._scored(smashed, labels, Kind.EVALUATION)

    def trunk(self, smashed: State) -> State:
        """Run the server's trunk on one batch, as a differentiable function.

        Its backward pass sends the gradient of the trunk's output, lets the server train, and
        continues with the cut gradient into the bottom, if one returns. If bottom and trunk are
        frozen, there is no backward pass.

        Parameters
        ----------
        smashed : State
            The bottom's output for B examples, still in the autograd graph.

        Returns
        -------
        State
            What the top takes, such as [B, N+1, D].

        Raises
        ------
        ChannelError
            If the server refuses the batch, cannot be reached, or answers out of order.
        """
        if not self._wire.output_gradient:
            return self.evaluate_trunk(smashed)
        named = by_name(smashed)
        if not any(tensor.requires_grad for tensor in named.values()):
            # Even with a frozen bottom the backward pass has to reach the server.
            named = {n: t.detach().requires_grad_(t.is_floating_point()) for n, t in named.items()}
        names: list[str] = []
        outputs = _Trunk.apply(self, list(named), names, *named.values())
        return self._output.to_state(dict(zip(names, outputs, strict=True)))

    def evaluate_trunk(self, smashed: State) -> State:
        """Run the server's trunk on one batch; nothing is trained."""
        content = self._send(Kind.SMASHED_DATA, smashed, Kind.TRUNK_OUTPUT)
        self._step += 1
        return content.state

    def finish(self) -> None:
        """End the session. Without it the server drops what it has learned from this client."""
        _check_finished(self._exchange(Frame(Kind.FINISH, self._step)))

    @property
    def _output(self) -> Boundary:
        assert self._wire.output is not None
        return self._wire.output

    def _scored(self, smashed: State, labels: Tensor, answer: Kind) -> StepResult:
        """Send one batch that is answered without a gradient."""
        content = self._send(Kind.SMASHED_DATA, smashed, answer, labels=labels)
        self._step += 1
        return StepResult(content.scores[LOSS], content.scores[NUM_CORRECT])

    def _send(self, kind: Kind, state: State, answer: Kind, **scores: Tensor) -> Content:
        """Send a frame of the current step, and return its checked answer."""
        if kind in self._own:
            check_sent(self._own[kind], kind, state)
        frame = self._wire.pack(kind, self._step, state, stream=self._names, **scores)
        received = self._exchange(frame)
        expected = self._wire.payloads[answer].names
        if received.kind is not answer or set(received.tensors) != expected:
            raise ChannelError(
                f"The split server answered step {received.step} with {received.kind.name} holding "
                f"{sorted(received.tensors)}, not {answer.name} holding {sorted(expected)}."
            )
        name, tensor = next(iter(by_name(state).items()))
        boundary = self._output if kind is Kind.OUTPUT_GRADIENT else self._wire.smashed
        content = self._wire.unpack(
            received,
            device=tensor.device,
            batch_size=len(tensor) // boundary.tensors[name].shape[0],
        )
        self._checks.check(received, content)
        return content

    def _exchange(self, frame: Frame) -> Frame:
        sent = time.perf_counter()
        answer = self._stream.exchange(frame)
        self.waited_seconds += time.perf_counter() - sent
        check_order(answer, step=self._step)
        return answer

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)


def attend_rendezvous(stream: Stream) -> None:
    """Tell the split server that this client is connected, and wait until the others are.

    Raises
    ------
    ChannelError
        If the server cannot be reached, or no longer waits for this client.
    """
    answer = stream.exchange(Frame(Kind.FINISH, 0))
    check_order(answer, step=0)
    _check_finished(answer)


def _check_finished(answer: Frame) -> None:
    if answer.kind is not Kind.FINISHED:
        raise ChannelError(f"The split server answered FINISH with {answer.kind.name}.")


class _ServerLoss(torch.autograd.Function):
    """The server's half of the model as one differentiable function of the smashed data."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own contract
        session: SplitSession,
        labels: Tensor,
        names: list[str],
        *cut: Tensor,
    ) -> tuple[Tensor, Tensor]:
        sent = dict(zip(names, cut, strict=True))
        content = session._send(Kind.SMASHED_DATA, sent, Kind.CUT_GRADIENT, labels=labels)
        session._step += 1
        gradients = by_name(content.state)
        ctx.cut_gradient = [gradients.get(name) for name in names]
        ctx.mark_non_differentiable(content.scores[NUM_CORRECT])
        return content.scores[LOSS], content.scores[NUM_CORRECT]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        scaled = [None if g is None else g * grads[0] for g in ctx.cut_gradient]
        return (None, None, None, *scaled)


class _Trunk(torch.autograd.Function):
    """The server's trunk as a differentiable function of the smashed data."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own contract
        session: SplitSession,
        names: list[str],
        output_names: list[str],
        *cut: Tensor,
    ) -> tuple[Tensor, ...]:
        sent = dict(zip(names, cut, strict=True))
        output = by_name(session._send(Kind.SMASHED_DATA, sent, Kind.TRUNK_OUTPUT).state)
        output_names += output
        ctx.session, ctx.names, ctx.output_names = session, names, output_names
        # Copies: the top may work in place, and without a wire these are the server's own tensors.
        outputs = tuple(tensor.clone() for tensor in output.values())
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        given = dict(zip(ctx.output_names, grads, strict=True))
        floating = {name: grad for name, grad in given.items() if grad.is_floating_point()}
        content = ctx.session._send(Kind.OUTPUT_GRADIENT, floating, Kind.CUT_GRADIENT)
        ctx.session._step += 1
        gradients = by_name(content.state)
        return (None, None, None, *(gradients.get(name) for name in ctx.names))
