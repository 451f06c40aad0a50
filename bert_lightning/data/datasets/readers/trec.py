"""TREC question types (Li and Roth 2002): a line is `COARSE:fine the question`."""

from collections.abc import Iterator

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.reading.lines import numbered_lines
from bert_lightning.errors import InputError


def read_trec(source: str, fine: bool) -> Iterator[LabelledText]:
    """Stream `train_5500.label` or `TREC_10.label`. Lines that are not UTF-8 are read as Latin-1, as published.

    The label is `COARSE`, or `COARSE:fine` with `fine`. The fine type alone would be ambiguous: several coarse types
    have a fine type `other`.

    Raises:
        InputError: a line has another form.
    """
    num_read = 0
    for number, line in numbered_lines(source, "latin-1"):
        if not line.strip():
            continue
        label, _, text = line.strip().partition(" ")
        coarse, colon, kind = label.partition(":")
        if not (coarse and colon and kind and text.strip()):
            raise InputError(f"{source}: line {number}: COARSE:fine and a question are expected")
        yield LabelledText(f"{source}: line {number}", text.strip(), None, label if fine else coarse, str(num_read))
        num_read += 1
