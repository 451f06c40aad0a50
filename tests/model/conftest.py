"""Custom parts, registered for one test."""

import pytest

from bert_lightning.model import (
    register_activation,
    register_attention,
    register_head,
    register_norm_placement,
    register_position_embedding,
)
from bert_lightning.model.config import PARTS
from bert_lightning.model.heads import HEADS
from tests.support import own_parts


@pytest.fixture
def own_parts_registered(monkeypatch):
    """Register the parts of `own_parts.py`; the tables are as before after the test."""
    for table in (*PARTS.values(), HEADS):
        for name in [name for name in table if name not in table.published]:
            monkeypatch.delitem(table, name)
    before = [(table, dict(table)) for table in (*PARTS.values(), HEADS)]
    register_activation("squared_relu", own_parts.squared_relu)
    register_activation("swish", own_parts.Swish)
    register_position_embedding("slope", own_parts.Slope)
    register_norm_placement("sandwich", own_parts.Sandwich)
    register_norm_placement("parallel", own_parts.Parallel)
    register_attention("window", own_parts.window)
    register_attention("relative", own_parts.RelativeBias)
    register_attention("cumulative", own_parts.Cumulative)
    register_head("attentive", own_parts.Attentive)
    register_head("per-token", own_parts.PerToken)
    register_head("of-vector", own_parts.OfVector)
    yield
    for table, content in before:
        table.clear()
        table.update(content)
