"""The outputs of a split, whose copies to the host are read when they are complete."""

import pytest
import torch

from bert_lightning.tasks.fine_tuning import outputs
from bert_lightning.tasks.fine_tuning.outputs import Outputs


class Event:
    """A mark behind a copy that is complete after a number of later marks."""

    delay = 0
    made: list["Event"] = []  # noqa: RUF012

    def record(self):
        self.made.append(self)
        self.number = len(self.made)

    def query(self):
        self.is_complete = len(self.made) - self.number >= self.delay
        return self.is_complete

    def synchronize(self):
        self.is_complete = True


def batch_of(number):
    return {"numbers": torch.tensor([2 * number, 2 * number + 1]), "num_sequences": 2}


@pytest.mark.parametrize("delay", [0, 3, 10**6])
def test_outputs_are_read_in_order_when_their_copies_are_complete(monkeypatch, delay):
    monkeypatch.setattr(outputs, "_copies_asynchronously", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "delay", delay)
    monkeypatch.setattr(Event, "made", [])
    read = []

    def outputs_of(computed, batch):
        assert Event.made[len(read)].is_complete
        read.append(batch["num_sequences"])
        return computed.tolist()

    collected = Outputs(outputs_of)
    for number in range(30):
        collected.add(torch.tensor([number, -number]), batch_of(number))
        # At most eight are under way, and none longer than its copy takes.
        assert len(read) == number + 1 - min(number + 1, delay, 8)
    assert collected.take() == {2 * n + k: [n, -n][k] for n in range(30) for k in (0, 1)}
    assert collected.take() == {}


def test_on_a_processor_outputs_are_read_at_once():
    collected = Outputs(lambda computed, batch: computed.tolist())
    values = torch.tensor([5, 6])
    collected.add(values, batch_of(0))
    # The model may reuse its memory.
    values.zero_()
    assert collected.take() == {0: 5, 1: 6}
