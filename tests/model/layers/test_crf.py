"""The CRF, compared with enumeration of every tag sequence and with pytorch-crf, an independent implementation."""

import itertools
import re

import pytest
import torch
import torchcrf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_lightning.model import BertConfig, BertForTokenClassification
from bert_lightning.model.layers.crf import Allowed, LinearChainCRF, allowed_by_scheme
from bert_lightning.model.losses import IGNORED

LABELS = {
    "IOB1": ["O", "B-X", "I-X", "B-Y", "I-Y"],
    "IOB2": ["O", "B-X", "I-X", "B-Y", "I-Y"],
    "BIOES": ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"],
    "BILOU": ["O", "B-X", "I-X", "L-X", "U-X"],
}


def random_crf(num_tags, allowed=None):
    crf = LinearChainCRF(num_tags, allowed).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    return crf


def score(crf, emissions, path):
    """Return the score of one tag sequence."""
    steps = sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
    return crf.starts[path[0]] + crf.ends[path[-1]] + steps + sum(e[t] for e, t in zip(emissions, path, strict=True))


@settings(max_examples=25)
@given(data=st.data(), num_tags=st.integers(1, 3), length=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_likelihood_and_decoding_equal_enumeration_for_any_mask(data, num_tags, length, seed):
    torch.manual_seed(seed)
    crf = random_crf(num_tags)
    mask = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=2, max_size=2))
    )
    emissions = torch.randn(2, length, num_tags, dtype=torch.float64)
    tags = torch.randint(num_tags, (2, length)).masked_fill(~mask, IGNORED)
    found, decoded = crf.log_likelihood(emissions, tags, mask), crf.decode(emissions, mask)
    for row in range(2):
        assert (decoded[row][~mask[row]] == IGNORED).all()
        at = emissions[row][mask[row]]
        if not len(at):
            assert found[row] == 0
            continue
        scores = {path: score(crf, at, path) for path in itertools.product(range(num_tags), repeat=len(at))}
        total = torch.stack(list(scores.values())).logsumexp(0)
        expected = scores[tuple(tags[row][mask[row]].tolist())] - total
        torch.testing.assert_close(found[row], expected, rtol=1e-10, atol=1e-10)
        assert tuple(decoded[row][mask[row]].tolist()) == max(scores, key=scores.__getitem__)


def test_likelihood_gradients_and_decoding_equal_pytorch_crf():
    torch.manual_seed(0)
    num_tags, lengths = 7, [9, 4, 1]
    ours, theirs = random_crf(num_tags), torchcrf.CRF(num_tags, batch_first=True).double()
    with torch.no_grad():
        theirs.start_transitions.copy_(ours.starts)
        theirs.transitions.copy_(ours.transitions)
        theirs.end_transitions.copy_(ours.ends)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    emissions = torch.randn(3, 9, num_tags, dtype=torch.float64, requires_grad=True)
    tags = torch.randint(num_tags, (3, 9))
    likelihood = ours.log_likelihood(emissions, tags, mask)
    expected = theirs(emissions, tags, mask=mask, reduction="none")
    torch.testing.assert_close(likelihood, expected, rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad(likelihood.sum(), [emissions, ours.transitions, ours.starts, ours.ends])
    other = [emissions, theirs.transitions, theirs.start_transitions, theirs.end_transitions]
    for actual, expected_gradient in zip(mine, torch.autograd.grad(expected.sum(), other), strict=True):
        torch.testing.assert_close(actual, expected_gradient, rtol=1e-10, atol=1e-12)
    decoded = [row[row != IGNORED].tolist() for row in ours.decode(emissions, mask)]
    assert decoded == theirs.decode(emissions, mask=mask)


def test_under_autocast_everything_is_float32():
    torch.manual_seed(0)
    crf = LinearChainCRF(5)
    emissions, tags = torch.randn(2, 6, 5).bfloat16(), torch.randint(5, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    expected = crf.log_likelihood(emissions.float(), tags, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = crf.log_likelihood(emissions, tags, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def spans_ok(labels, scheme):
    """Return whether a tag sequence is of the scheme, by the definition of the scheme as a regular expression."""
    kinds = sorted({label.partition("-")[2] for label in labels if label != "O"})
    span = {
        "IOB2": "(B-{0} (I-{0} )*)",
        "BIOES": "(B-{0} (I-{0} )*E-{0} |S-{0} )",
        "BILOU": "(B-{0} (I-{0} )*L-{0} |U-{0} )",
        # A run of one type, whose later spans start with B.
        "IOB1": "((I-{0} )+(B-{0} (I-{0} )*)*)",
    }[scheme]
    pattern = "(O |" + "|".join(span.format(kind) for kind in kinds) + ")*"
    return re.fullmatch(pattern, "".join(f"{label} " for label in labels)) is not None


@pytest.mark.parametrize("scheme", LABELS)
def test_the_allowed_steps_of_a_scheme_follow_its_definition(scheme):
    labels = LABELS[scheme]
    starts, transitions, ends = allowed_by_scheme(labels, scheme)
    for length in (1, 2, 3, 4):
        for path in itertools.islice(itertools.product(range(len(labels)), repeat=length), 7000):
            allowed = (
                starts[path[0]] and ends[path[-1]] and all(transitions[a, b] for a, b in itertools.pairwise(path))
            )
            assert bool(allowed) == spans_ok([labels[t] for t in path], scheme), [labels[t] for t in path]


@pytest.mark.parametrize("scheme", LABELS)
def test_forbidden_steps_are_never_decoded_and_have_no_probability(scheme):
    torch.manual_seed(0)
    labels = LABELS[scheme]
    crf = random_crf(len(labels), allowed_by_scheme(labels, scheme))
    emissions = 5 * torch.randn(50, 6, len(labels), dtype=torch.float64)
    mask = torch.rand(50, 6) < 0.8
    for row, real in zip(crf.decode(emissions, mask), mask, strict=True):
        assert spans_ok([labels[tag] for tag in row[real]], scheme)
    paths = torch.tensor(list(itertools.product(range(len(labels)), repeat=3)))
    likelihoods = crf.log_likelihood(emissions[:1, :3].expand(len(paths), -1, -1), paths, torch.ones_like(paths))
    ok = torch.tensor([spans_ok([labels[tag] for tag in path], scheme) for path in paths])
    likelihoods = likelihoods.detach()
    assert likelihoods[ok].exp().sum() == pytest.approx(1)
    assert likelihoods[~ok].max() < -1000


def test_a_label_that_is_not_of_the_scheme_is_named():
    with pytest.raises(ValueError, match="'S-X' is not of the scheme IOB2, which has B, I and O"):
        allowed_by_scheme(["O", "S-X"], "IOB2")
    with pytest.raises(ValueError, match="tag_scheme is 'IOBES'; known: IOB1"):
        allowed_by_scheme(["O"], "IOBES")


def test_a_model_with_a_crf_saves_its_scheme_and_reads_back(tmp_path):
    config = BertConfig.preset("tiny", vocab_size=30, max_position_embeddings=16)
    model = BertForTokenClassification(config, labels=LABELS["IOB2"], crf=True, tag_scheme="IOB2")
    torch.nn.init.normal_(model.crf.transitions)
    model.save_pretrained(tmp_path)
    again = BertForTokenClassification.from_pretrained(tmp_path)
    assert (again.labels, again.tag_scheme) == (LABELS["IOB2"], "IOB2")
    assert torch.equal(again.crf.transitions, model.crf.transitions)
    assert torch.equal(again.crf.forbidden_transitions, model.crf.forbidden_transitions)
    assert again.crf.forbidden_transitions.any()


@pytest.mark.parametrize("scale", [25, 2e4])
def test_no_score_outweighs_a_constraint_in_decoding(scale):
    crf = LinearChainCRF(2, allowed_by_scheme(["O", "I-X"], "IOB2"))
    emissions = torch.tensor([0.0, scale]).expand(1, 512, 2)
    assert not crf.decode(emissions, torch.ones(1, 512)).any()


def test_an_empty_batch_has_no_likelihood():
    crf = LinearChainCRF(3)
    emissions, tags, mask = torch.zeros(0, 4, 3), torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4)
    assert crf.log_likelihood(emissions, tags, mask).shape == (0,)
    assert crf.decode(emissions, mask).shape == (0, 4)


def test_decoding_under_autocast_is_float32():
    torch.manual_seed(0)
    crf = LinearChainCRF(9)
    torch.nn.init.normal_(crf.transitions)
    emissions, mask = torch.randn(20, 30, 9).bfloat16(), torch.ones(20, 30)
    expected = crf.decode(emissions.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crf.decode(emissions, mask), expected)


@pytest.mark.parametrize(
    ("name", "emissions", "tags", "mask"),
    [
        ("mask", (2, 4, 3), (2, 4), None),
        ("mask", (2, 4, 3), (2, 4), (2, 3)),
        ("mask", (2, 4, 3), (2, 4), (1, 4)),
        ("mask", (2, 4, 3), (2, 4), (2, 4, 1)),
        ("mask", (2, 4, 3), (2, 4), (4,)),
        ("emissions", (4, 3), (2, 4), (2, 4)),
        ("emissions", (2, 4, 4), (2, 4), (2, 4)),
        ("emissions", (2, 4, 1), (2, 4), (2, 4)),
        ("emissions", (2, 0, 3), (2, 0), (2, 0)),
        ("emissions", None, (2, 4), (2, 4)),
        ("tags", (2, 4, 3), (2, 3), (2, 4)),
        ("tags", (2, 4, 3), (1, 4), (2, 4)),
        ("tags", (2, 4, 3), (2, 5), (2, 4)),
        ("tags", (2, 4, 3), None, (2, 4)),
    ],
)
def test_a_wrong_shape_is_named_with_the_expected_one(name, emissions, tags, mask):
    crf = LinearChainCRF(3)
    shapes = {"emissions": emissions, "tags": tags, "mask": mask}
    tensors = {
        key: None if shape is None else torch.zeros(shape, dtype=None if key == "emissions" else torch.long)
        for key, shape in shapes.items()
    }
    found = "no tensor|None" if shapes[name] is None else re.escape(f"of shape {shapes[name]}")
    expected = r"\(B, S, 3\)" if name == "emissions" else re.escape(str(emissions[:2]))
    with pytest.raises(ValueError, match=f"^{name} is ({found}); expected {expected}"):
        crf.log_likelihood(**tensors)
    if name != "tags":
        with pytest.raises(ValueError, match=f"^{name} is ({found}); expected {expected}"):
            crf.decode(tensors["emissions"], tensors["mask"])


def test_constraints_on_another_number_of_tags_are_refused():
    with pytest.raises(ValueError, match=r"allowed.starts has shape \(2,\); expected \(3,\)"):
        LinearChainCRF(3, allowed_by_scheme(["O", "I-X"], "IOB2"))
    one = torch.ones(1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"allowed.starts has shape \(1,\); expected \(3,\)"):
        LinearChainCRF(3, Allowed(one, one[None], one))


def test_everything_is_computed_on_the_device_of_the_scores():
    crf = LinearChainCRF(3).to("meta")
    emissions, ids = torch.empty(2, 4, 3, device="meta"), torch.zeros(2, 4, dtype=torch.long, device="meta")
    assert crf.log_likelihood(emissions, ids, ids).device.type == "meta"
    assert crf.decode(emissions, ids).device.type == "meta"
