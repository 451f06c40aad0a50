import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_lightning.metrics.spans import Span, spans_of, strict_spans_of
from bert_lightning.tags import is_span_tag
from bert_lightning.tasks.token_classification.nearest_tag import nearest_tag
from bert_lightning.tasks.token_classification.tag_schemes import (
    all_tags,
    convert,
    detect_scheme,
    first_break,
    tags_of,
)
from bert_lightning.tasks.token_classification.tag_verdict import TagVerdict, judge_tags

SCHEMES = ("IOB1", "IOB2", "BIOES", "BILOU")


@st.composite
def spans(draw):
    """Draw spans in order that do not overlap, and the length of their sentence."""
    found, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 4))
        found.append(Span(draw(st.sampled_from(["PER", "LOC", "a-b", ""])), start, position))
    return found, position + draw(st.integers(0, 3))


@given(spans(), st.sampled_from(SCHEMES))
def test_spans_survive_every_scheme(sentence, scheme):
    found, length = sentence
    tags = tags_of(found, length, scheme)
    assert spans_of(tags) == found
    # seqeval calls a type without a name `_`.
    assert [(span.type.strip("_"), *span[1:]) for span in strict_spans_of(tags, scheme)] == found
    assert first_break(tags, scheme) is None


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
        ([["O"]], "IOB2"),
        ([["B", "I", "O"]], "IOB2"),
        ([["I", "I", "O"], ["I", "B"]], "IOB1"),
        ([["B", "E", "S"]], "BIOES"),
    ],
)
def test_a_scheme_is_known_by_its_tags(sentences, scheme):
    assert detect_scheme(sentences) == scheme


# Tag sets of parts of speech and others as published. Some have single letters, or tags with a hyphen.
PLAIN = {
    "Penn Treebank": "# $ '' ( ) , . : `` CC CD DT EX FW IN JJ LS MD NN NNP PDT POS PRP$ RB SYM TO UH VB WP$ "
    "-LRB- -RRB- -NONE- HYPH AFX NN|SYM",
    "Universal Dependencies": "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X",
    "Gimpel et al. 2011": "N O S ^ Z L M V A R ! D P & T X Y # @ ~ U E $ , G",
    "MULTEXT": "N V A P D T R S C M I Y X Q",
    "PKU": "Ag a ad an b c d e f g h i j k l m n nr o p q r s t u v w x y z",
    "PROIEL": "A- C- Df F- G- I- Ma Nb Ne Pc R- S- V- X-",
    "Perseus": "n-s---fn- v3spia--- e-------- i-------- u-------- l-s---mn- a-p---mn- ---------",
    "STTS": "ADJA ART CARD ITJ KON NE NN $, $. $( PTKA TRUNC VVFIN XY",
    "Prague": "NNFS1-----A---- II------------- TT------------- Z:------------- Db-------------",
    "TreeTagger": "ABR ADJ NOM PRO:PER VER:pres VER:infi PRP:det PUN:cit",
    "Brown": "NN-TL IN-TL AT-HL BER NP$ *",
    "Icelandic": "nheng nven-s nken-m nxen-s aa e c",
    "punctuation": "O COMMA PERIOD QUESTION",
    "types alone": "O PER LOC",
    "cases": "U L",
    "blood groups": "A B O AB",
    "blood groups with signs": "A+ A- B+ B- AB+ AB- O+ O-",
    "Slovak National Corpus": "SSms1 AAms1 O E T J R Y Z W Q % # 0 Eu6 VKesc",
    "categories of CCG": "N N/N NP/N (S\\NP)/NP S[dcl]\\NP S/S conj .",
    "tags that begin with B or I": "BN IN BE IE BAND IRON O",
    "numbers": "0 1",
    "more numbers": "0 1 2 3 4 5 8",
    "Roman numbers": "I II III IV",
}


@pytest.mark.parametrize("name", PLAIN)
def test_tag_sets_that_mark_no_spans_are_plain_labels_without_a_warning(name):
    assert judge_tags(PLAIN[name].split()) == TagVerdict(False)


@pytest.mark.parametrize(
    "tags", ["B I O", "B O", "I O", "B I", "O", "B I E S O", "B I L U O", "B-PER I-PER O", "S-PER O", "B-a-b B-work"]
)
def test_tags_of_a_scheme_with_or_without_types_are_spans(tags):
    assert judge_tags(tags.split()) == TagVerdict(True)


@pytest.mark.parametrize(
    ("tags", "readings"),
    [
        ("B-PER I-PER 0", {"0": "O"}),
        ("B-PER o", {"o": "O"}),
        ("B-PER \u041e", {"\u041e": "O"}),
        ("B-PER \u041e-", {"\u041e-": "O"}),
        ("B-PER O-PER", {"O-PER": "O"}),
        ("B-PER none -", {"none": "O", "-": "O"}),
        ("b-PER i-PER O", {"b-PER": "B-PER", "i-PER": "I-PER"}),
        ("B_PER I_PER O", {"B_PER": "B-PER", "I_PER": "I-PER"}),
        # No O, but both tags of a type.
        ("B_PER I_PER X", {"B_PER": "B-PER", "I_PER": "I-PER", "X": None}),
        ("B:PER O", {"B:PER": "B-PER"}),
        ("B/PER O", {"B/PER": "B-PER"}),
        ("PER-B PER-I O", {"PER-B": "B-PER", "PER-I": "I-PER"}),
        ("PER_B O", {"PER_B": "B-PER"}),
        ("B-PER B- O", {"B-": "B"}),
        ("B- I- O", {"B-": "B", "I-": "I"}),
        ("-PER I-PER O", {"-PER": "I-PER"}),
        ("-PER O", {"-PER": "B-PER"}),
        ("B\u2013PER O", {"B\u2013PER": "B-PER"}),
        ("\uff22\uff0dPER O", {"\uff22\uff0dPER": "B-PER"}),
        ("\u0412-PER I-PER O", {"\u0412-PER": "B-PER"}),
        ("\u0392-PER O", {"\u0392-PER": "B-PER"}),
        ("1-PER l-PER B-PER I-PER", {"1-PER": "I-PER", "l-PER": "I-PER"}),
        ("B-PER M-PER E-PER S-PER O", {"M-PER": "I-PER"}),
        ("B-PER NOUN DET ADJ VERB ADV", dict.fromkeys(["NOUN", "DET", "ADJ", "VERB", "ADV"])),
        ("B-PER [PAD] O", {"[PAD]": None}),
        ("B-PER I O", {"I": None}),
        ("B-PER E-PER L-PER", {"L-PER": None}),
        ("B I 0", {"0": "O"}),
        ("b i o", {"b": "B", "i": "I", "o": "O"}),
        ("B I O X", {"X": None}),
        ("B M E S", {"M": "I"}),
        ("begin_PER inside_PER O", {"begin_PER": "B-PER", "inside_PER": "I-PER"}),
        *[
            (f"B{sign}PER I{sign}PER O", {f"B{sign}PER": "B-PER", f"I{sign}PER": "I-PER"})
            for sign in ";,*#@&~^\u00ad\u00b7"
        ],
        ("B(PER) I(PER) O", {"B(PER)": "B-PER", "I(PER)": "I-PER"}),
        ("B<PER> O", {"B<PER>": "B-PER"}),
        ("BPER IPER BLOC O", {"BPER": "B-PER", "IPER": "I-PER", "BLOC": "B-LOC"}),
        ("B1 I1 B22 O", {"B1": "B-1", "I1": "I-1", "B22": "B-22"}),
        ("B-PER I-PER IPER O", {"IPER": "I-PER"}),
        ("B-PER -1 -100 0.9 1.0 O", dict.fromkeys(["-1", "-100", "0.9", "1.0"])),
    ],
)
def test_tags_nearly_of_a_scheme_are_refused_and_have_a_nearest_reading(tags, readings):
    tags = tags.split()
    verdict = judge_tags(tags)
    assert verdict == TagVerdict(True, frozenset(readings))
    assert {tag: nearest_tag(tag, tags) for tag in verdict.refused if not is_span_tag(tag)} == {
        tag: reading for tag, reading in readings.items() if not is_span_tag(tag)
    }


@pytest.mark.parametrize("tag", ["B-PER ", " B-PER", "B PER", "B - PER", "\u00a0B-PER", '"B-PER"', "B-\u3000PER"])
def test_blanks_and_quotes_in_a_tag_do_not_hide_its_nearest_reading(tag):
    assert judge_tags([tag, "O", "I-PER"]) == TagVerdict(True, frozenset({tag}))
    assert nearest_tag(tag) == "B-PER"


@pytest.mark.parametrize("tags", ["S O", "E-mail phone O", "U L O"])
def test_tags_that_may_be_either_are_plain_and_doubtful(tags):
    verdict = judge_tags(tags.split())
    assert not verdict.spans
    assert not verdict.refused
    assert verdict.doubtful


@pytest.mark.parametrize(
    ("scheme", "tags", "position"),
    [
        ("IOB2", ["O", "I-PER"], 1),
        ("IOB2", ["B-PER", "I-LOC"], 1),
        ("BIOES", ["B-PER", "O"], 1),
        ("BIOES", ["S-PER", "B-PER"], 1),
        ("IOB1", ["B-PER"], 0),
        ("IOB1", ["I-PER", "B-PER"], None),
    ],
)
def test_the_first_tag_that_breaks_its_scheme_is_found(scheme, tags, position):
    assert first_break(tags, scheme) == position


def test_a_model_has_every_tag_of_its_scheme():
    assert all_tags(["PER", "LOC"], "IOB2") == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert all_tags(["X"], "BIOES") == ["O", "B-X", "I-X", "E-X", "S-X"]
    assert all_tags(["X"], "BILOU") == ["O", "B-X", "I-X", "L-X", "U-X"]
