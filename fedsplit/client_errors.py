"""What the server, and the site itself, are told of a client that fails."""

from __future__ import annotations

import sys

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
    tell_site(context, reason)
    return error_reply(message, reason)


def tell_site(context: Context, text: str) -> None:
    """Print a line where the SuperNode prints its own: those who run the site have to mend it.

    In a simulation the server's console says it.
    """
    if "num-partitions" not in context.node_config:
        print(f"fedsplit: {text}", file=sys.stderr, flush=True)  # noqa: T201
