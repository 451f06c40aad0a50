import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from bert_lightning.text.original import OriginalEncoding
from tests.support.texts import NASTY

ORIGINAL = Path(__file__).parents[1] / "data/original"
RECORDED = json.loads((ORIGINAL / "encodings.json").read_text())


@pytest.fixture(scope="module", params=["uncased", "cased"])
def casing(request):
    return request.param


@pytest.fixture(scope="module")
def ours(casing):
    entries = (ORIGINAL / f"{casing}.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return OriginalEncoding(entries, lowercase=casing == "uncased")


@pytest.fixture(scope="module")
def port(casing):
    """The port of the original in transformers; it drops private-use characters and never splits special tokens."""
    return BertTokenizerLegacy(str(ORIGINAL / f"{casing}.txt"), do_lower_case=casing == "uncased")


def test_every_recorded_text_is_encoded_as_the_original_code_did(ours, casing):
    for text, pieces in zip(RECORDED["texts"], RECORDED[casing], strict=True):
        assert ours.tokenize(text) == pieces, repr(text)


@example(text="a\x00\u0301")
@given(text=st.text(alphabet=NASTY.replace("[", "").replace("\U000e0001", ""), max_size=60))
def test_encoding_equals_a_port_of_the_original(ours, port, text: str):
    # The port's words end at 100 characters, and it composes accents, which the original does not. It drops control
    # characters before it does so.
    cleaned = "".join(c for c in text if c in "\t\n\r" or (unicodedata.category(c)[0] != "C" and c != "\ufffd"))
    composed = unicodedata.normalize("NFC", cleaned) == cleaned
    if composed and max(map(len, text.split()), default=0) <= 50:
        assert ours.tokenize(text) == port.tokenize(text)


@pytest.mark.parametrize(("length", "pieces"), [(200, 200), (201, 1)])
def test_a_word_may_have_two_hundred_characters(length, pieces):
    assert len(OriginalEncoding(["a", "##a", "[UNK]"], lowercase=True).tokenize("a" * length)) == pieces
