"""The one table that all blocks of BEiT may share: it travels with the state, and comes home."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsplit.channel.direct import DirectChannel
from fedsplit.errors import ModelError
from fedsplit.models import InputSpec, Part, SplitModel, smashed_spec, split_model
from fedsplit.split.concatenated import Concatenated
from fedsplit.split.copies import PerParticipantCopies
from fedsplit.split.phases import Purpose
from fedsplit.split.rules import UpdateRule
from fedsplit.split.server import SplitServer
from fedsplit.split.wire import Wire
from tests.models.families.steps import assert_close, gradients_of, whole_step
from tests.models.families.zoo import batch, images_of, make
from tests.split.toys import Client, config_of, copies_in, settings_of, wire_of

TABLE = "beit.shared_position_bias.relative_position_bias_table"
SGD = config_of(momentum=0.0, learning_rate=0.1)
CUTS = (1, 2, 3)  # between the three blocks; after the last there is no table


def test_the_table_has_a_row_for_each_example_until_the_last_block() -> None:
    """Break it: let the last block pass the table on."""
    model = make("beit-shared")
    images, _ = batch(model)
    for cut in CUTS:
        smashed = split_model(model, [cut]).bottom(images)
        assert {n: tuple(t.shape) for n, t in smashed.items()} == {
            "hidden": (2, 7, 16),
            "bias_table": (2, 18, 2),
        }
    assert split_model(model, [4]).bottom(images).shape == (2, 7, 16)


def test_of_square_images_the_table_is_the_stored_one() -> None:
    """Break it: read the table off the bias of one head for both."""
    model = make("beit-both")
    table = split_model(model, [1]).bottom(batch(model)[0])["bias_table"]
    stored = model.get_parameter(TABLE)
    assert table.shape == (2, 12, 2)
    assert (table - stored).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ["beit-shared", "beit-both"])
def test_a_step_through_the_channel_returns_the_gradient_of_every_tensor(name: str) -> None:
    """Break it: detach the table in a block, or expand it by the wrong factor."""
    model = make(name)
    images, labels = batch(model)
    whole = whole_step(copy.deepcopy(model).train(), images, labels)
    for cut in CUTS[:-1] if name == "beit-both" else CUTS:
        parts = copy.deepcopy(split_model(model, [cut]))
        bottom = parts.bottom.train()
        wire = _wire_of(parts)
        server = _serving(PerParticipantCopies, parts)
        channel = DirectChannel(server)
        tokens = server.open_round(Purpose.TRAIN, [0])
        client = Client(channel.address, tokens[0], bottom=bottom, config=SGD, cut=wire)
        with client.session:
            smashed = bottom(images)
            for tensor in smashed.values():
                tensor.retain_grad()
            loss, _ = client.session.train_step(smashed, labels)
            torch.autograd.backward(loss)
            trained = copies_in(server)[0]
        channel.close()
        server.close()
        assert (loss - whole.loss).abs() <= 1e-5
        assert all(t.grad is not None and t.grad.abs().max() > 1e-4 for t in smashed.values())
        own = gradients_of(bottom)
        assert TABLE in own
        assert_close(own, {name: whole.gradients[name] for name in own})
        theirs = gradients_of(trained)
        assert own.keys() | theirs.keys() == whole.gradients.keys()
        assert_close(theirs, {name: whole.gradients[name] for name in theirs})


def test_clients_with_tables_of_their_own_in_one_concatenated_batch() -> None:
    """Break it: take the table of the first example for all."""
    model = make("beit-shared").train()
    parts = copy.deepcopy(split_model(model, [2]))
    bottoms = {0: parts.bottom, 1: copy.deepcopy(parts.bottom)}
    with torch.no_grad():
        bottoms[1].get_parameter(TABLE).mul_(-1.5)
    data = {0: batch(model, 0, size=3), 1: batch(model, 1, size=2)}
    # Each on its own, with the server part as it stands before the step.
    alone = {k: _whole_gradients(bottoms[k], parts.server_part(), *data[k]) for k in data}
    wire = _wire_of(parts)
    server = _serving(Concatenated, parts)
    channel = DirectChannel(server)
    tokens = server.open_round(Purpose.TRAIN, [0, 1])

    def train(k: int) -> None:
        client = Client(channel.address, tokens[k], bottom=bottoms[k], config=SGD, cut=wire)
        with client.session:
            client.step(data[k])
            client.session.finish()

    threads = [threading.Thread(target=train, args=(k,), daemon=True) for k in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert server.report().failures == {}
    for k, bottom in bottoms.items():
        own = gradients_of(bottom)
        assert_close(own, {name: alone[k][name] for name in own})
    weighed = {
        name: (3 * alone[0][name] + 2 * alone[1][name]) / 5
        for name in gradients_of(server.server_part)
    }
    assert_close(gradients_of(server.server_part), weighed)
    channel.close()
    server.close()


def test_images_of_another_size_are_refused() -> None:
    """Break it: look at the number of patches alone."""
    bottom = split_model(make("beit-shared"), [1]).bottom
    with pytest.raises(ModelError, match=r"3x24x16.*Images must be 16x24"):
        smashed_spec(bottom, InputSpec(3, 24, 16, (0.5,) * 3, (0.5,) * 3))


def _serving(rule: type[UpdateRule], parts: SplitModel) -> SplitServer:
    rule_at_work = rule(parts.server_part(), settings_of(SGD))
    return SplitServer(rule=rule_at_work, wire=_wire_of(parts))


def _wire_of(parts: SplitModel) -> Wire:
    return wire_of(smashed_spec(parts.bottom, images_of(parts.merge())), 3, 4)


def _whole_gradients(
    bottom: nn.Module, server_part: Part, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    joined = copy.deepcopy(nn.Sequential(bottom, server_part))
    torch.autograd.backward(cross_entropy(joined(images), labels))
    return gradients_of(*joined)
