import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.data.tag_schemes import SchemeCheck, all_tags, convert, detect_scheme, tags_of
from bert_lightning.metrics.entities import Span, spans_of, strict_spans_of

SCHEMES = ("IOB1", "IOB2", "BIOES", "BILOU")


@st.composite
def spans(draw):
    """Spans in order that do not overlap, and the length of their sentence."""
    found, place = [], 0
    for _ in range(draw(st.integers(0, 6))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 4))
        found.append(Span(draw(st.sampled_from(["PER", "LOC", "a-b"])), start, place))
    return found, place + draw(st.integers(0, 3))


@given(spans(), st.sampled_from(SCHEMES))
def test_spans_survive_every_scheme(sentence, scheme):
    found, length = sentence
    tags = tags_of(found, length, scheme)
    assert spans_of(tags) == found
    assert strict_spans_of(tags, scheme) == found
    assert SchemeCheck(scheme, tags).first_break(tags) is None


@given(spans(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
def test_converting_there_and_back_changes_nothing(sentence, one, other):
    tags = tags_of(*sentence, one)
    assert convert(convert(tags, other), one) == tags


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["I-PER", "I-PER", "O"], ["I-LOC", "B-LOC"]], "IOB1"),
        ([["B-PER", "I-PER", "O"]], "IOB2"),
        # One stray tag makes no file IOB1.
        ([["B-PER", "O"], ["I-PER"]], "IOB2"),
        ([["B-PER", "E-PER"], ["S-LOC"]], "BIOES"),
        ([["B-PER", "L-PER"], ["U-LOC"]], "BILOU"),
        ([["NN", "O"]], None),
        ([["B-PER", "NN", "VB"]], None),
        # One slip makes no file of spans one of plain tags.
        ([["B-PER", "o"]], "IOB2"),
        ([["O"]], "IOB2"),
    ],
)
def test_a_scheme_is_known_by_its_tags(sentences, scheme):
    assert detect_scheme(sentences) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags", "place"),
    [
        ("IOB2", ["O", "I-PER"], 1),
        ("IOB2", ["B-PER", "I-LOC"], 1),
        ("BIOES", ["B-PER", "O"], 1),
        ("BIOES", ["S-PER", "B-PER"], 1),
        ("IOB1", ["B-PER"], 0),
        ("IOB1", ["I-PER", "B-PER"], None),
    ],
)
def test_the_first_tag_that_breaks_its_scheme_is_found(scheme, tags, place):
    assert SchemeCheck(scheme, tags).first_break(tags) == place


def test_a_model_has_every_tag_of_its_scheme():
    assert all_tags(["PER", "LOC"], "IOB2") == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert all_tags(["X"], "BIOES") == ["O", "B-X", "I-X", "E-X", "S-X"]
    assert all_tags(["X"], "BILOU") == ["O", "B-X", "I-X", "L-X", "U-X"]
