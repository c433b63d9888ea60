from __future__ import annotations

import pytest

from fedsplit.errors import ConfigError
from fedsplit.inputs import Inputs
from strategies.clients import Clients

_COUNTS = {0: [3, 1], 1: [0, 4], 2: [2, 2]}
_HELD_OUT = {0: 1, 1: 2, 2: 3}


def _clients(*away: int, digest: str = "") -> Clients:
    """Three clients, some of which cannot answer; `digest` is that of the images of client 1."""
    there = [k for k in _COUNTS if k not in away]
    digests = {0: "zero", 1: digest or "one", 2: "two"}
    return Clients(
        node_ids={k: k + 1 for k in there},
        class_counts={k: _COUNTS[k] if k in there else [0, 0] for k in _COUNTS},
        digests={k: digests[k] if k in there else "" for k in _COUNTS},
        validation={k: _HELD_OUT[k] if k in there else 0 for k in _COUNTS},
    )


def _inputs(clients: Clients) -> Inputs:
    return Inputs(clients.class_counts, clients.digests, "test", "model", clients.validation)


def test_what_a_site_held_is_known_while_it_is_away() -> None:
    """Break it: count a site that is left out now as one without images."""
    saved = _inputs(_clients()).state_dict()
    away = _clients(1)
    inputs, known = _inputs(away).continuing(saved, away)
    assert (inputs.class_counts, inputs.validation) == (_COUNTS, _HELD_OUT)
    assert inputs.state_dict() == saved
    assert (known.class_counts, known.validation) == (_COUNTS, _HELD_OUT)
    assert known.node_ids == {0: 1, 2: 3}


def test_a_site_that_comes_back_must_hold_the_same_images() -> None:
    """Break it: keep only the digests of the sites that were there the last time."""
    began, away = _clients(), _clients(1)
    saved = _inputs(away).continuing(_inputs(began).state_dict(), away)[0].state_dict()
    back, changed = _clients(), _clients(digest="other images")
    assert _inputs(back).continuing(saved, back)[0].state_dict() == _inputs(began).state_dict()
    with pytest.raises(ConfigError, match="The images of client 1 are not those with which"):
        _inputs(changed).continuing(saved, changed)


def test_a_site_that_comes_later_is_known_from_then_on() -> None:
    """Break it: keep the counts with which the run began."""
    late, there = _clients(2), _clients()
    inputs, known = _inputs(there).continuing(_inputs(late).state_dict(), there)
    assert inputs.class_counts == known.class_counts == _COUNTS


def test_a_checkpoint_of_an_older_version_does_not_say_what_is_held_out() -> None:
    """Break it: require it."""
    saved, away = _inputs(_clients()).state_dict(), _clients(1)
    del saved["validation"]
    _, known = _inputs(away).continuing(saved, away)
    assert known.validation == {0: 1, 1: 0, 2: 3}
