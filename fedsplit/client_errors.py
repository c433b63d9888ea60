"""What the server is told of a client that fails."""

from __future__ import annotations

from flwr.app import Context, Message

from fedsplit.blame import short_path, users_frame
from fedsplit.errors import FedSplitError
from fedsplit.flower_internals import ClientAppCallable, error_reply
from fedsplit.run_log import clients_log


def explain_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Reply with one readable line; an unforeseen error is also logged, with its traceback.

    Flower's own reply would differ between engines: in a simulation it has Ray's traceback.
    """
    try:
        return call_next(message, context)
    except FedSplitError as error:
        reason = str(error)
    except Exception as error:
        clients_log.error("A client failed", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        if frame := users_frame(error):
            file = short_path(frame.filename)
            reason = f"{file}, line {frame.lineno}, in {frame.name}: {reason}"
    return error_reply(message, reason)
