from __future__ import annotations

from fedsplit.channel.ledger import Traffic
from fedsplit.split.server import RoundReport
from strategies.replies import NO_REPLY
from strategies.reply_checks import name_true_reasons


def test_the_reason_of_a_missing_reply_is_what_the_split_server_saw() -> None:
    failures = {1: NO_REPLY, 2: NO_REPLY, 3: "diverged"}
    seen = {1: "its stream broke", 2: "it never opened its stream", 3: "it was expelled"}
    name_true_reasons(failures, RoundReport(Traffic(), {}, seen, {}))
    assert failures == {1: "no reply: its stream broke", 2: NO_REPLY, 3: "diverged"}
    name_true_reasons(failures, None)
