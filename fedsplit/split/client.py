"""The client's side of split learning: a loss whose other half is computed by the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsplit.channel.connect import connect
from fedsplit.channel.endpoint import Stream
from fedsplit.channel.frame import (
    LABELS,
    LOSS,
    NUM_CORRECT,
    Frame,
    Kind,
    pack_cut,
    unpack_output,
)
from fedsplit.errors import ChannelError
from fedsplit.split.checks import check_order, check_tensor
from fedsplit.split.steps import StepResult
from fedsplit.states import State


class SplitSession:
    """One participant's session; the loop around it reads like any PyTorch loop.

    Examples
    --------
    With the labels at the server (vanilla):

    >>> with SplitSession.connect(address, token, ...) as session:  # doctest: +SKIP
    ...     for images, labels in batches:
    ...         optimizer.zero_grad()
    ...         loss, num_correct = session.train_step(bottom(images), labels)
    ...         loss.backward()  # the server has sent the gradient at the cut
    ...         optimizer.step()
    ...     session.finish()

    With labels and top at the client (U-shaped), the loss is an ordinary one:

    >>> loss = cross_entropy(top(session.trunk(bottom(images))), labels)  # doctest: +SKIP

    Attributes
    ----------
    waited_seconds : float
        From handing each frame over to having its answer, over all frames so far.
    """

    def __init__(
        self, stream: Stream, *, cut_gradient: bool = True, output_gradient: bool = True
    ) -> None:
        self._stream = stream
        self._step = 0
        self.waited_seconds = 0.0
        self._cut_gradient = cut_gradient
        self._output_gradient = output_gradient

    @classmethod
    def connect(
        cls,
        address: str,
        token: str,
        *,
        step_timeout: float,
        max_frame_bytes: int,
        cut_gradient: bool = True,
        output_gradient: bool = True,
    ) -> Self:
        """Open a session (see `fedsplit.channel.connect.connect`)."""
        return cls(
            connect(address, token, step_timeout=step_timeout, max_frame_bytes=max_frame_bytes),
            cut_gradient=cut_gradient,
            output_gradient=output_gradient,
        )

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
            ``loss.backward()`` continues with the cut gradient into the bottom. If none returns,
            the loss is a plain number, and there is no backward pass.

        Raises
        ------
        ChannelError
            If the server refuses the batch, cannot be reached, or answers out of order.
        """
        named = pack_cut(smashed)
        if not self._cut_gradient:
            return self._scored(named, labels, Kind.CUT_GRADIENT)
        loss, num_correct = _ServerLoss.apply(self, labels, list(named), *named.values())
        return StepResult(loss, num_correct)

    def evaluate_step(self, smashed: State, labels: Tensor) -> StepResult:
        """Send one batch to be scored; nothing is trained."""
        return self._scored(pack_cut(smashed), labels, Kind.EVALUATION)

    def trunk(self, smashed: State) -> State:
        """Run the server's trunk on one batch, as a function that autograd can go through.

        Its backward pass sends the gradient of the trunk's output, lets the server train, and
        goes on with the cut gradient into the bottom, if one returns. If all of bottom and trunk
        is frozen, there is no backward pass.

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
        if not self._output_gradient:
            return self.evaluate_trunk(smashed)
        named = pack_cut(smashed)
        if not any(tensor.requires_grad for tensor in named.values()):
            # From a frozen bottom: the backward pass must come by all the same.
            named = {n: t.detach().requires_grad_(t.is_floating_point()) for n, t in named.items()}
        names: list[str] = []
        outputs = _Trunk.apply(self, list(named), names, *named.values())
        return unpack_output(dict(zip(names, outputs, strict=True)))

    def evaluate_trunk(self, smashed: State) -> State:
        """Run the server's trunk on one batch; nothing is trained."""
        answer = self._exchange(Kind.SMASHED_DATA, _detached(pack_cut(smashed)))
        _check_output(answer)
        self._step += 1
        return unpack_output(answer.tensors)

    def finish(self) -> None:
        """Say that all steps are done; without it the server drops what it has learnt."""
        answer = self._exchange(Kind.FINISH, {})
        if answer.kind is not Kind.FINISHED:
            raise ChannelError(f"The split server answered FINISH with {answer.kind.name}.")

    def _scored(self, named: Mapping[str, Tensor], labels: Tensor, kind: Kind) -> StepResult:
        """Send one batch that is answered without a gradient."""
        answer = self._exchange(Kind.SMASHED_DATA, {**_detached(named), LABELS: labels})
        _check_answer(answer, kind, {})
        self._step += 1
        return StepResult(answer.tensors[LOSS], answer.tensors[NUM_CORRECT])

    def _exchange(self, kind: Kind, tensors: Mapping[str, Tensor]) -> Frame:
        sent = time.perf_counter()
        answer = self._stream.exchange(Frame(kind, self._step, tensors))
        self.waited_seconds += time.perf_counter() - sent
        check_order(answer, step=self._step)
        return answer

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)


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
        sent = _detached(dict(zip(names, cut, strict=True)))
        answer = session._exchange(Kind.SMASHED_DATA, {**sent, LABELS: labels})
        _check_answer(answer, Kind.CUT_GRADIENT, sent)
        session._step += 1
        device = cut[0].device
        ctx.cut_gradient = [
            answer.tensors[name].to(device) if name in answer.tensors else None for name in names
        ]
        ctx.mark_non_differentiable(answer.tensors[NUM_CORRECT])
        return answer.tensors[LOSS].to(device), answer.tensors[NUM_CORRECT]

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
        sent = _detached(dict(zip(names, cut, strict=True)))
        answer = session._exchange(Kind.SMASHED_DATA, sent)
        _check_output(answer)
        output_names += answer.tensors
        returns = session._cut_gradient
        ctx.sent = {n: t for n, t in sent.items() if returns and t.is_floating_point()}
        ctx.session = session
        ctx.names, ctx.output_names = names, output_names
        # Of its own, because the top may work in place and there may be no wire between them.
        outputs = tuple(tensor.clone() for tensor in answer.tensors.values())
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        return tuple(tensor.to(cut[0].device) for tensor in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        given = dict(zip(ctx.output_names, grads, strict=True))
        floating = {name: grad for name, grad in given.items() if grad.is_floating_point()}
        answer = ctx.session._exchange(Kind.OUTPUT_GRADIENT, _detached(floating))
        _check_gradient(answer, ctx.sent)
        ctx.session._step += 1
        device = grads[0].device
        cut = [answer.tensors[n].to(device) if n in answer.tensors else None for n in ctx.names]
        return (None, None, None, *cut)


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Contiguous in both engines: the layout of a batch must not depend on the channel.
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _check_answer(answer: Frame, kind: Kind, sent: Mapping[str, Tensor]) -> None:
    gradients = {name: tensor for name, tensor in sent.items() if tensor.is_floating_point()}
    _check_kind(answer, kind, {*gradients, LOSS, NUM_CORRECT})
    _check_like(answer, gradients)
    check_tensor(answer, LOSS, shape=torch.Size(), dtype=torch.float32)
    check_tensor(answer, NUM_CORRECT, shape=torch.Size(), dtype=torch.int64)


def _check_gradient(answer: Frame, sent: Mapping[str, Tensor]) -> None:
    _check_kind(answer, Kind.CUT_GRADIENT, set(sent))
    _check_like(answer, sent)


def _check_output(answer: Frame) -> None:
    if answer.kind is not Kind.TRUNK_OUTPUT or not answer.tensors:
        raise _unexpected(answer, "TRUNK_OUTPUT holding the trunk's output")
    for name, tensor in answer.tensors.items():
        check_tensor(answer, name, shape=tensor.shape, dtype=tensor.dtype)


def _check_like(answer: Frame, sent: Mapping[str, Tensor]) -> None:
    for name, tensor in sent.items():
        check_tensor(answer, name, shape=tensor.shape, dtype=tensor.dtype)


def _check_kind(answer: Frame, kind: Kind, expected: set[str]) -> None:
    if answer.kind is not kind or set(answer.tensors) != expected:
        raise _unexpected(answer, f"{kind.name} holding {sorted(expected)}")


def _unexpected(answer: Frame, expected: str) -> ChannelError:
    return ChannelError(
        f"The split server answered step {answer.step} with {answer.kind.name} holding "
        f"{sorted(answer.tensors)}, not {expected}."
    )
