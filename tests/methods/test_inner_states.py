"""Every loss on inner states against a second implementation, and the properties that it must have exactly."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.methods.distillation import TERMS
from bert_lightning.methods.distillation.attention import AttentionSettings
from bert_lightning.methods.distillation.hidden import HiddenSettings
from bert_lightning.methods.distillation.layer_maps import pairs_of
from bert_lightning.methods.distillation.relations import RelationSettings, scaled_products
from bert_lightning.methods.distillation.term import Rows
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.model.recording import Recording

LENGTHS = (9, 4, 7)
HEADS = 2
SETTINGS = {
    "hidden": [
        HiddenSettings(embeddings=True),
        HiddenSettings(layers="skip", metric="normalized-mse", tokens="cls"),
        HiddenSettings(layers="top", metric="cosine"),
        HiddenSettings(layers=[None, 3], tokens="cls"),
    ],
    "attention": [AttentionSettings(), AttentionSettings(layers="last")],
    "relations": [
        RelationSettings(),
        RelationSettings(of=["query-key", "value-value"], teacher_layer=1),
        RelationSettings(heads=8),
    ],
}
CASES = [
    pytest.param(settings, id=f"{name}-{number}")
    for name, listed in SETTINGS.items()
    for number, settings in enumerate(listed)
]


def encoder(seed, num_layers, width):
    torch.manual_seed(seed)
    options = {"hidden_size": width, "num_hidden_layers": num_layers, "num_attention_heads": HEADS}
    config = BertConfig.preset(
        "tiny", vocab_size=50, intermediate_size=32, max_position_embeddings=16, initializer_range=0.4, **options
    )
    return BertEncoder(config).double().eval()


@pytest.fixture(scope="module")
def student():
    return encoder(1, 2, 16)


@pytest.fixture(scope="module")
def teacher():
    return encoder(2, 4, 24)


def padded():
    torch.manual_seed(3)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 50, mask.shape)
    counts = {"num_tokens": sum(LENGTHS), "num_sequences": len(LENGTHS), "num_token_pairs": 0}
    return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask, **counts}


def packed():
    batch = padded()
    mask = batch.pop("attention_mask")
    ids = {name: batch[name][mask] for name in ("input_ids", "token_type_ids")}
    return {**batch, **ids, "packing": packing_of(torch.tensor(LENGTHS))}


def record(model, needs, batch):
    recording = Recording(needs.states, needs.blocks)
    with model.recorded(recording):
        model(batch["input_ids"], batch["token_type_ids"], batch.get("attention_mask"), batch.get("packing"))
    return recording


def losses(settings, student, teacher, batch):
    """Return the term, and its losses averaged over what they count."""
    torch.manual_seed(4)
    term = settings.build(student.config, teacher.config)
    term.projections.double()
    with torch.no_grad():
        taught = record(teacher, term.teacher, batch)
    sums = term.sums(record(student, term.student, batch), taught, Rows.of(batch))
    assert len(sums) == len(term.names) == len(term.counts(batch))
    return term, [total / count for total, count in zip(sums, term.counts(batch), strict=True)]


# -- second implementations: one sequence, block and head at a time ------------------------------------------------


def inner(model, batch, sequence):
    """Return the hidden states and the (3, N, S, D) queries, keys and values of one sequence without padding."""
    length = LENGTHS[sequence]
    recording = Recording(range(len(model.layers) + 1), range(len(model.layers)))
    with model.recorded(recording), torch.no_grad():
        model(batch["input_ids"][sequence : sequence + 1, :length])
    parts = {
        number: torch.stack([part.unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in each[0].chunk(3, -1)])
        for number, each in recording.query_key_value.items()
    }
    return {number: each[0] for number, each in recording.states.items()}, parts


def naive_hidden(settings, term, student, teacher, batch):
    total, number = 0.0, 0
    states = {0: 0} if settings.embeddings else {}
    states |= {s + 1: t + 1 for s, t in pairs_of(settings.layers, 2, 4).items()}
    for sequence in range(len(LENGTHS)):
        mine, theirs = (inner(model, batch, sequence)[0] for model in (student, teacher))
        tokens = range(LENGTHS[sequence]) if settings.tokens == "all" else [0]
        number += len(tokens)
        for token in tokens:
            for one, other in states.items():
                layer, expected = term.projections[str(one)], theirs[other][token]
                vector = layer.weight @ mine[one][token] + layer.bias
                if settings.metric == "cosine":
                    total += 1 - F.cosine_similarity(vector, expected, dim=0)
                elif settings.metric == "mse":
                    total += F.mse_loss(vector, expected)
                else:
                    total += F.mse_loss(vector / vector.norm(), expected / expected.norm())
    return [total / number]


def naive_attention(settings, term, student, teacher, batch):
    total = 0.0
    for sequence in range(len(LENGTHS)):
        mine, theirs = (inner(model, batch, sequence)[1] for model in (student, teacher))
        for one, other in pairs_of(settings.layers, 2, 4).items():
            scores = [parts[0] @ parts[1].mT / parts.shape[-1] ** 0.5 for parts in (mine[one], theirs[other])]
            # TinyBERT, task_distill.py.
            scores = [torch.where(each <= -1e2, torch.zeros_like(each), each) for each in scores]
            total += F.mse_loss(*scores) * LENGTHS[sequence]
    return [total / sum(LENGTHS)]


def naive_relations(settings, term, student, teacher, batch):
    names, found = ["query", "key", "value"], []
    heads = settings.heads or HEADS
    layer = 3 if settings.teacher_layer is None else settings.teacher_layer
    for relation in settings.of:
        one, other = (names.index(name) for name in relation.split("-"))
        total = 0.0
        for sequence in range(len(LENGTHS)):
            rows = []
            for model, block in ((student, 1), (teacher, layer)):
                # Concatenate the attention heads, then split into relation heads, as section 3.1 of MiniLMv2.
                parts = inner(model, batch, sequence)[1][block].transpose(1, 2).flatten(2)
                width = parts.shape[-1] // heads
                split = [parts[part].unflatten(-1, (heads, width)).transpose(0, 1) for part in (one, other)]
                rows.append((split[0] @ split[1].mT / width**0.5).log_softmax(-1))
            for head in range(heads):
                total += F.kl_div(rows[0][head], rows[1][head], reduction="sum", log_target=True)
        found.append(total / (heads * sum(LENGTHS)))
    return found


NAIVE = {"hidden": naive_hidden, "attention": naive_attention, "relations": naive_relations}


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("arrange", [padded, packed])
def test_a_loss_equals_its_second_implementation_for_padded_and_packed_sequences(settings, arrange, student, teacher):
    name = next(name for name, cls in TERMS.items() if type(settings) is cls)
    term, found = losses(settings, student, teacher, arrange())
    expected = NAIVE[name](settings, term, student, teacher, padded())
    expected = torch.stack([value.detach() for value in expected])
    assert (expected > 1e-4).all()
    torch.testing.assert_close(torch.stack(found).detach(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("settings", CASES)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(settings, teacher):
    if isinstance(settings, RelationSettings):
        settings = dataclasses.replace(settings, teacher_layer=None)
    else:
        settings = dataclasses.replace(settings, layers=list(range(4)))
    teacher.requires_grad_(True)
    # On a CPU, `sdpa` computes differently with gradients and without, in the last bits.
    teacher.attention = "eager"
    _, found = losses(settings, teacher, teacher, padded())
    total = torch.stack(found)
    assert not total.any()
    total.sum().backward()
    gradients = [parameter.grad for parameter in teacher.parameters() if parameter.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)
    teacher.zero_grad()


def test_every_kind_of_loss_has_a_case_and_a_second_implementation():
    assert SETTINGS.keys() == NAIVE.keys() == TERMS.keys()


def test_scores_of_minus_a_hundred_and_less_count_as_zero():
    width, term = 16, AttentionSettings(layers="top").build(*[BertConfig.preset("tiny", vocab_size=9)] * 2)
    query_key_value = torch.zeros(1, 2, 3 * width, dtype=torch.float64)
    # The scores of the first head are 1 and -1 times 8 * 50 / sqrt(8).
    query_key_value[..., :8], query_key_value[0, :, width : width + 8] = 1.0, torch.tensor([[50.0], [-50.0]])
    recordings = [Recording(), Recording()]
    for recording, values in zip(recordings, (query_key_value, torch.zeros_like(query_key_value)), strict=True):
        recording.query_key_value = dict.fromkeys(range(2), values)
    rows = Rows(None, None, None)
    [total] = term.sums(*recordings, rows)
    # Per token, the mean over two heads and two keys of which one counts.
    assert float(total) == pytest.approx(2 * (8 * 50 / 8**0.5) ** 2 / 4, rel=1e-12)


def test_the_rows_of_a_relation_sum_to_one(student):
    recording = record(student, RelationSettings().build(student.config, student.config).student, padded())
    products = scaled_products(recording.query_key_value[1], 0, 0, num_heads=4)
    relation = products.softmax(-1)
    torch.testing.assert_close(relation.sum(-1), torch.ones_like(relation.sum(-1)), rtol=0, atol=1e-12)
    assert relation.shape == (3, 4, 9, 9)


def test_the_attention_distribution_of_minilm_is_that_of_the_attention(student):
    batch = padded()
    needs = RelationSettings().build(student.config, student.config).student
    recorded = record(student, needs, batch).query_key_value[1]
    mask = batch["attention_mask"]
    distribution = scaled_products(recorded, 0, 1, HEADS).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    student.attention = "eager"
    weights = student(batch["input_ids"], None, mask, output_attentions=True).attentions[1]
    torch.testing.assert_close(distribution, weights, rtol=1e-9, atol=1e-12)


# -- settings and models that do not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HiddenSettings(layers=[0]), r"layers is \[0\]; it must have one entry for each of the student's 2"),
        (lambda: HiddenSettings(layers=[0, 4]), "layers names block 4, but the teacher has blocks 0 to 3"),
        (lambda: AttentionSettings(layers=[None, -1]), "layers names block -1, but the teacher has blocks 0 to 3"),
        (lambda: HiddenSettings(layers=[None, None]), "layers names no block"),
        (lambda: HiddenSettings(projection="never"), "projection is never, but the student has hidden size 16 and"),
        (lambda: RelationSettings(heads=3), "heads is 3, which does not divide the student's hidden size 16"),
        (lambda: RelationSettings(teacher_layer=4), "teacher_layer is 4, but the teacher has blocks 0 to 3"),
        (lambda: RelationSettings(of=[]), "of is .*; it must name one or more relations"),
        (lambda: RelationSettings(of=["key-key", "key-key"]), "each once"),
        (lambda: HiddenSettings(weight=0), "weight is 0; it must be more than 0"),
    ],
)
def test_settings_that_do_not_fit_are_one_message(make, message, student, teacher):
    with pytest.raises(ValueError, match=f"^{message}|{message}$"):
        make().build(student.config, teacher.config)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (AttentionSettings(), {"num_attention_heads": 4}, "compares heads one by one, but the student has 2 heads"),
        (RelationSettings(), {"num_attention_heads": 4}, "heads is null, but the student has 2 attention heads and"),
        (HiddenSettings(), {"num_hidden_layers": 3}, "layers is uniform, which needs a teacher with a multiple"),
        (HiddenSettings(layers="skip"), {"num_hidden_layers": 1}, "layers is skip, which needs a teacher with"),
        (HiddenSettings(layers="last"), {"num_hidden_layers": 1}, "layers is last, but the teacher has 1 blocks"),
    ],
)
def test_a_teacher_of_another_shape_is_one_message(settings, changes, message, student, teacher):
    with pytest.raises(ValueError, match=message):
        settings.build(student.config, teacher.config.replace(**changes))


def test_a_student_of_one_block_has_no_block_before_its_last(student, teacher):
    for layers in ("skip", "last"):
        with pytest.raises(ValueError, match=f"layers is {layers}, which leaves the last block out"):
            HiddenSettings(layers=layers).build(student.config.replace(num_hidden_layers=1), teacher.config)
