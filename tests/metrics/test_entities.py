"""Entity scores against the state machine of conlleval, the patterns of seqeval and conlleval's own report."""

import json
import random
import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_lightning.errors import InputError
from bert_lightning.metrics.entities import Score, conlleval_report, score_entities
from bert_lightning.metrics.entity_errors import EntityCase, entity_errors
from bert_lightning.metrics.spans import Span, spans_of, strict_spans_of
from bert_lightning.tags import split_tag
from bert_lightning.tasks.token_classification.tag_schemes import convert

# (tag before, tag) between which conlleval.pl sees a start, or an end, for any types.
STARTS = {"BB", "IB", "OB", "OI", "EE", "EI", "OE"}
ENDS = {"BB", "BO", "IB", "IO", "EE", "EI", "EO"}
# Pairs that seqeval adds for the tag S, and for B after E.
STARTS_WITH_S = STARTS | {"EB", "SB", "SI", "SE"} | {before + "S" for before in "OBIES"}
ENDS_WITH_S = ENDS | {"EB", "BS", "IS", "ES"} | {"S" + after for after in "OBIES"}


class StateMachine:
    """Reimplementation of the main loop of conlleval.pl, word by word."""

    def __init__(self, starts: set[str] = STARTS, ends: set[str] = ENDS) -> None:
        self.starts, self.ends = starts, ends
        self.gold, self.predicted, self.correct = Counter(), Counter(), Counter()
        self.num_tokens = self.num_right = 0
        self.agrees = False
        self.before = (("O", ""), ("O", ""))

    def word(self, gold_tag: str, predicted_tag: str, boundary: bool = False) -> None:
        after = tuple((*tag.split("-", 1), "")[:2] for tag in (gold_tag, predicted_tag))
        moves = list(zip(self.before, after, strict=True))
        ends = [a + b in self.ends or (a != "O" and s != t) for (a, s), (b, t) in moves]
        starts = [a + b in self.starts or (b != "O" and s != t) for (a, s), (b, t) in moves]
        if self.agrees:
            if all(ends) and self.before[0][1] == self.before[1][1]:
                self.agrees = False
                self.correct[self.before[0][1]] += 1
            elif ends[0] != ends[1] or after[0][1] != after[1][1]:
                self.agrees = False
        if all(starts) and after[0][1] == after[1][1]:
            self.agrees = True
        self.gold[after[0][1]] += starts[0]
        self.predicted[after[1][1]] += starts[1]
        if not boundary:
            self.num_tokens += 1
            self.num_right += after[0] == after[1]
        self.before = after

    def read(self, gold, predicted) -> "StateMachine":
        for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
            for tags in zip(gold_tags, predicted_tags, strict=True):
                self.word(*tags)
            self.word("O", "O", boundary=True)
        return self


def tags_of(prefixes: str) -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("X", "group-A", "x"))]


def sentences_of(tags: list[str]):
    """Draw pairs of gold and predicted tags, half of them equal so that entities are often right."""
    pair = st.sampled_from(tags).flatmap(lambda tag: st.tuples(st.just(tag), st.just(tag) | st.sampled_from(tags)))
    sentence = st.lists(pair, min_size=1, max_size=12)
    return st.lists(sentence, min_size=1, max_size=4).map(
        lambda pairs: tuple([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
    )


def assert_scores_are_those_of(machine: StateMachine, scores) -> None:
    kinds = sorted(kind for kind in machine.gold | machine.predicted if machine.gold[kind] + machine.predicted[kind])
    assert list(scores.per_type) == kinds
    for kind in kinds:
        counts = machine.gold[kind], machine.predicted[kind], machine.correct[kind]
        assert scores.per_type[kind][3:] == counts
    assert scores.overall[3:] == tuple(sum(c.values()) for c in (machine.gold, machine.predicted, machine.correct))
    assert (scores.num_tokens, scores.num_correct_tags) == (machine.num_tokens, machine.num_right)


@given(sentences_of(tags_of("BI")))
def test_scores_are_those_of_the_state_machine_of_conlleval(sentences):
    assert_scores_are_those_of(StateMachine().read(*sentences), score_entities(*sentences))


@given(sentences_of(tags_of("BIES")))
def test_spans_with_single_tags_are_those_of_the_state_machine_with_them(sentences):
    converted = [[convert(tags, "IOB2") for tags in side] for side in sentences]
    entities = score_entities(*converted)
    machine = StateMachine(STARTS_WITH_S, ENDS_WITH_S).read(*sentences)
    assert (entities.overall.num_gold, entities.overall.num_predicted, entities.overall.num_correct) == tuple(
        sum(counts.values()) for counts in (machine.gold, machine.predicted, machine.correct)
    )


def conlleval(gold, predicted) -> str:
    """Run conlleval.pl of 2004-01-26, translated statement by statement; a blank line ends each sentence."""
    lines = [line for pair in zip(gold, predicted, strict=True) for line in (*zip(*pair, strict=True), None)]
    in_correct = False
    correct_chunk = Counter()
    found_correct, found_guessed = Counter(), Counter()
    correct_tags = token_counter = 0
    last_correct = last_guessed = "O"
    last_correct_type = last_guessed_type = ""

    def split(tag):
        match = re.fullmatch("([^-]*)-(.*)", tag)
        prefix, kind = match.groups() if match else (tag, "")
        return prefix, kind if kind not in ("", "0") else ""

    def end_of_chunk(before, tag, type_before, kind):
        end = False
        if before == "B" and tag == "B":
            end = True
        if before == "B" and tag == "O":
            end = True
        if before == "I" and tag == "B":
            end = True
        if before == "I" and tag == "O":
            end = True
        if before == "E" and tag == "E":
            end = True
        if before == "E" and tag == "I":
            end = True
        if before == "E" and tag == "O":
            end = True
        if before not in ("O", ".") and type_before != kind:
            end = True
        if before in ("]", "["):
            end = True
        return end

    def start_of_chunk(before, tag, type_before, kind):
        start = False
        if before == "B" and tag == "B":
            start = True
        if before == "I" and tag == "B":
            start = True
        if before == "O" and tag == "B":
            start = True
        if before == "O" and tag == "I":
            start = True
        if before == "E" and tag == "E":
            start = True
        if before == "E" and tag == "I":
            start = True
        if before == "O" and tag == "E":
            start = True
        if tag not in ("O", ".") and type_before != kind:
            start = True
        if tag in ("[", "]"):
            start = True
        return start

    for line in lines:
        (correct, correct_type), (guessed, guessed_type) = map(split, line or ("O", "O"))
        correct_move = (last_correct, correct, last_correct_type, correct_type)
        guessed_move = (last_guessed, guessed, last_guessed_type, guessed_type)
        if in_correct:
            if end_of_chunk(*correct_move) and end_of_chunk(*guessed_move) and last_guessed_type == last_correct_type:
                in_correct = False
                correct_chunk[last_correct_type] += 1
            elif end_of_chunk(*correct_move) != end_of_chunk(*guessed_move) or guessed_type != correct_type:
                in_correct = False
        if start_of_chunk(*correct_move) and start_of_chunk(*guessed_move) and guessed_type == correct_type:
            in_correct = True
        if start_of_chunk(*correct_move):
            found_correct[correct_type] += 1
        if start_of_chunk(*guessed_move):
            found_guessed[guessed_type] += 1
        if line is not None:
            correct_tags += correct == guessed and guessed_type == correct_type
            token_counter += 1
        last_guessed, last_correct = guessed, correct
        last_guessed_type, last_correct_type = guessed_type, correct_type
    if in_correct:
        correct_chunk[last_correct_type] += 1

    def figures(right, guesses, golds):
        precision = 100 * right / guesses if guesses else 0.0
        recall = 100 * right / golds if golds else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
        return f"precision: {precision:6.2f}%; recall: {recall:6.2f}%; FB1: {f1:6.2f}"

    right, guesses, golds = (sum(counts.values()) for counts in (correct_chunk, found_guessed, found_correct))
    text = (
        f"processed {token_counter} tokens with {golds} phrases; found: {guesses} phrases; correct: {right}.\n"
        f"accuracy: {100 * correct_tags / token_counter:6.2f}%; {figures(right, guesses, golds)}\n"
    )
    for kind in sorted({*found_correct, *found_guessed}):
        counts = correct_chunk[kind], found_guessed[kind], found_correct[kind]
        text += f"{kind.encode().rjust(17).decode()}: {figures(*counts)}  {found_guessed[kind]}\n"
    return text


@pytest.mark.parametrize(
    ("prefixes", "types"),
    [
        ("BI", ["X", "Y"]),
        ("BIES", ["X", "Y"]),
        ("BILU", ["X", "Y"]),
        ("BIESLU[].", ["", "X", "a-b"]),
        ("BIE[]", [""]),
        ("BI", ["0", "", "\u00fcber"]),
    ],
)
def test_the_report_is_that_of_the_script_byte_by_byte_for_random_tags(prefixes, types):
    generator = random.Random(prefixes)
    tags = ["O", "O", *(f"{prefix}-{kind}" if kind else prefix for prefix in prefixes for kind in types)]
    for _ in range(60):
        gold = [generator.choices(tags, k=generator.randint(1, 9)) for _ in range(4)]
        predicted = [[tag if generator.random() < 0.7 else generator.choice(tags) for tag in each] for each in gold]
        assert conlleval_report(score_entities(gold, predicted)) == conlleval(gold, predicted)


def test_touching_spans_with_e_and_s_are_one_for_the_script_and_two_once_converted():
    gold, predicted = [["B-LOC", "E-LOC", "B-LOC", "E-LOC", "S-LOC"]], [["B-LOC", "E-LOC", "O", "O", "O"]]
    assert score_entities(gold, predicted).overall[3:] == (1, 1, 0)
    converted = [[convert(tags, "IOB2") for tags in side] for side in (gold, predicted)]
    assert score_entities(*converted).overall[3:] == (3, 1, 1)


def test_types_are_padded_by_bytes():
    kind = "\u4eba\u540d"
    row = conlleval_report(score_entities([[f"B-{kind}"]], [["O"]])).splitlines()[2]
    assert row.startswith(" " * 11 + kind + ": precision")


@settings(max_examples=40)
@given(sentences_of(["O", "B", "I", "B-X", "I-X"]))
def test_tags_without_a_type_are_spans_without_one_as_in_conlleval(sentences):
    assert_scores_are_those_of(StateMachine().read(*sentences), score_entities(*sentences))


@given(st.lists(st.sampled_from(tags_of("BIES")), max_size=12))
def test_l_is_read_as_e_and_u_as_s(tags):
    renamed = [tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]
    assert spans_of(renamed) == spans_of(tags)


# seqeval.scheme: (prefixes before, prefixes, whether types are the same or None) that start, continue, or end a span.
ANY = "OBIES"
PATTERNS = {
    "IOB1": (
        [("O", "I", None), ("I", "I", False), ("B", "I", None), ("I", "B", True), ("B", "B", True)],
        [("B", "I", True), ("I", "I", True)],
        [("I", "I", False), ("I", "OB", None), ("B", "O", None), ("B", "I", False), ("B", "B", True)],
    ),
    "IOB2": (
        [(ANY, "B", None)],
        [("BI", "I", True)],
        [("I", "O", None), ("I", "I", False), ("I", "B", None), ("B", "OB", None), ("B", "I", False)],
    ),
    "BIOES": ([(ANY, "BS", None)], [("BI", "IE", True)], [("ES", ANY, None)]),
}


def spans_by_patterns(tags, scheme) -> list[tuple[str, int, int]]:
    prefixes = [(tag[0], tag[1:].strip("-") or "_") for tag in [*tags, "O"]]

    def match(patterns, before, after) -> bool:
        same = before[1] == after[1]
        return any(before[0] in a and after[0] in b and wanted in (None, same) for a, b, wanted in patterns)

    starts, inside, ends = PATTERNS[scheme]
    spans, position, before = [], 0, ("O", "_")
    while position < len(prefixes):
        end = position + 1
        if match(starts, before, prefixes[position]):
            while end < len(prefixes) and match(inside, prefixes[end - 1], prefixes[end]):
                end += 1
            if match(ends, prefixes[end - 1], prefixes[end]):
                spans.append((prefixes[position][1], position, end))
        before, position = prefixes[end - 1], end
    return spans


@pytest.mark.parametrize(("scheme", "longest"), [("IOB1", 6), ("IOB2", 6), ("BIOES", 4)])
def test_strict_spans_are_those_of_seqeval_for_every_short_sentence(scheme, longest):
    prefixes = "BIES" if scheme == "BIOES" else "BI"
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in "XY")]
    for length in range(longest + 1):
        for sentence in product(tags, repeat=length):
            assert strict_spans_of(sentence, scheme) == spans_by_patterns(sentence, scheme), sentence


def test_bilou_is_bioes_in_other_letters():
    tags = ["B-X", "L-X", "U-X", "B-Y", "I-Y", "U-Y", "O", "L-X"]
    assert strict_spans_of(tags, "BILOU") == [("X", 0, 2), ("X", 2, 3), ("Y", 5, 6)]


def test_strict_types_lose_hyphens_at_their_ends_as_in_seqeval():
    assert strict_spans_of(["B--X-", "I-X", "O", "B", "B-a-b"]) == [("X", 0, 2), ("_", 3, 4), ("a-b", 4, 5)]


@st.composite
def entities(draw):
    """Draw spans that do not overlap, in order, and the length of their sentence."""
    spans, position = [], 0
    for gap, length, kind in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("XY")))):
        spans.append(Span(kind, position + gap, position + gap + length))
        position += gap + length
    return spans, position + draw(st.integers(0, 1))


def encode(spans, length, scheme) -> list[str]:
    tags = ["O"] * length
    previous = None
    for span in spans:
        prefixes = ["I"] * (span.end - span.start)
        if scheme != "IOB1" or (previous is not None and (previous.end, previous.type) == (span.start, span.type)):
            prefixes[0] = "B"
        if scheme in ("BIOES", "BILOU"):
            prefixes[-1] = scheme[3]
            prefixes = [scheme[4]] if scheme == "BIOES" and len(prefixes) == 1 else prefixes
        if scheme == "BILOU":
            prefixes[-1] = "U" if len(prefixes) == 1 else "L"
        tags[span.start : span.end] = [f"{prefix}-{span.type}" for prefix in prefixes]
        previous = span
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
@settings(max_examples=40)
@given(entities())
def test_spans_survive_every_scheme(scheme, sentence):
    spans, length = sentence
    tags = encode(spans, length, scheme)
    assert spans_of(tags) == spans
    assert strict_spans_of(tags, scheme) == spans


@pytest.mark.parametrize(
    ("gold", "predicted", "conlleval", "strict"),
    [
        # Measured with seqeval 1.2.2.
        (["B-PER", "I-PER"], ["I-PER", "I-PER"], 1.0, 0.0),
        (["B-PER", "I-PER"], ["B-PER", "I-LOC"], 0.0, 0.0),
        (["O", "O"], ["O", "O"], 0.0, 0.0),
        (["B-X", "O", "B-X"], ["B-X", "O", "O"], 2 / 3, 2 / 3),
    ],
)
def test_f1_of_known_cases(gold, predicted, conlleval, strict):
    assert score_entities([gold], [predicted]).overall.f1 == conlleval
    assert score_entities([gold], [predicted], "strict").overall.f1 == strict


def test_a_type_is_all_that_follows_the_first_hyphen():
    assert split_tag("B-GROUP-A") == ("B", "GROUP-A")
    assert spans_of(["B-GROUP-A", "I-GROUP-B"]) == [("GROUP-A", 0, 1), ("GROUP-B", 1, 2)]


@pytest.mark.parametrize("tag", ["PER", "X-PER", "b-PER", "", "O-PER", "o", "-PER", "[PAD]"])
def test_a_tag_of_no_scheme_is_an_error_that_names_it(tag):
    with pytest.raises(ValueError, match=r"^the tag "):
        spans_of(["O", tag])


def test_a_tag_of_another_scheme_is_an_error_in_strict_mode():
    with pytest.raises(ValueError, match="'E-X' is not of the scheme IOB2, which has B, I and O"):
        score_entities([["B-X", "E-X"]], [["O", "O"]], "strict")


def test_sentences_that_do_not_match_are_an_error():
    with pytest.raises(InputError, match="2 sentences of gold tags, but 1"):
        score_entities([["O"], ["O"]], [["O"]])
    with pytest.raises(InputError, match="sentence 1: 2 gold tags, but 1"):
        score_entities([["O"], ["O", "O"]], [["O"], ["O"]])


def test_percents_are_rounded_as_conlleval_rounds():
    # 23 of 160 is 14.375 in conlleval's arithmetic; a hundred times the fraction is a bit below it.
    assert f"{Score.of(160, 160, 23).percent()[0]:.2f}" == "14.38"
    assert f"{100 * Score.of(160, 160, 23).precision:.2f}" == "14.37"


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_percents_are_those_of_the_formulas_of_conlleval(num_gold, num_predicted, data):
    num_correct = data.draw(st.integers(0, min(num_gold, num_predicted)))
    precision, recall = 100 * num_correct / num_predicted, 100 * num_correct / num_gold
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    assert Score.of(num_gold, num_predicted, num_correct).percent() == (precision, recall, f1)


def test_the_report_of_an_empty_set_is_one_line():
    assert conlleval_report(score_entities([], [])) == (
        "processed 0 tokens with 0 phrases; found: 0 phrases; correct: 0.\n"
    )


@pytest.mark.real_data
def test_the_report_is_that_of_conlleval(real_data):
    golden = json.loads((real_data / "golden/ner_conlleval.json").read_text())
    sides = [[sentence[side] for sentence in golden["sentences"]] for side in ("gold", "pred")]
    assert conlleval_report(score_entities(*sides)) == golden["conlleval_report"]


def test_errors_are_sorted_by_kind():
    gold = [["B-X", "O", "B-X", "I-X", "O", "B-X", "O", "B-X", "I-X", "O", "B-Y", "O", "O"]]
    predicted = [["B-X", "O", "B-X", "O", "O", "B-Y", "O", "B-Y", "O", "O", "O", "O", "B-Y"]]
    errors = entity_errors(gold, predicted)
    assert errors.counts == {"correct": 1, "boundary": 1, "type": 1, "both": 1, "missed": 1, "spurious": 1}
    assert errors.boundary == [EntityCase(0, Span("X", 2, 4), Span("X", 2, 3))]
    assert errors.both == [EntityCase(0, Span("X", 7, 9), Span("Y", 7, 8))]
    assert errors.missed == [EntityCase(0, Span("Y", 10, 11), None)]
    assert errors.spurious == [EntityCase(0, None, Span("Y", 12, 13))]


def test_the_largest_overlap_is_paired_first_and_the_right_type_between_equal_ones():
    gold = [["B-X", "I-X", "I-X", "I-X", "O", "B-X", "I-X"]]
    predicted = [["B-X", "B-Y", "I-Y", "I-Y", "O", "B-Y", "B-X"]]
    errors = entity_errors(gold, predicted)
    assert errors.both == [EntityCase(0, Span("X", 0, 4), Span("Y", 1, 4))]
    assert errors.boundary == [EntityCase(0, Span("X", 5, 7), Span("X", 6, 7))]
    assert {case.predicted for case in errors.spurious} == {Span("X", 0, 1), Span("Y", 5, 6)}


@given(sentences_of(tags_of("BI")))
@example(([["B-X", "I-X"]], [["B-X", "B-X"]]))
def test_every_span_is_counted_in_exactly_one_case(sentences):
    errors, scores = entity_errors(*sentences), score_entities(*sentences)
    cases = [case for kind in vars(errors).values() for case in kind]
    for side, tags in zip(("gold", "predicted"), sentences, strict=True):
        used = [(case.sentence, getattr(case, side)) for case in cases if getattr(case, side) is not None]
        assert sorted(used) == sorted((n, span) for n, sentence in enumerate(tags) for span in spans_of(sentence))
    assert len(errors.correct) == scores.overall.num_correct
    for case in errors.boundary + errors.type + errors.both:
        assert case.gold.start < case.predicted.end
        assert case.predicted.start < case.gold.end
    # What is left over on both sides overlaps nowhere.
    for a, b in product(errors.missed, errors.spurious):
        assert a.sentence != b.sentence or a.gold.end <= b.predicted.start or b.predicted.end <= a.gold.start
