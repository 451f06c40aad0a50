"""R-Drop: exact properties, on every task."""

import pytest
import torch
import torch.nn.functional as F

from bert_lightning.errors import InputError
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.step_method import PlainStep
from tests.support.methods import NO_DROPOUT, WholeBatch, first_batch, gradients, maker, same
from tests.support.perturbing import parameter_gradients

R_DROP = "--adversarial.name=r-drop"


def kl(one, other, distribution):
    """KL(one || other) summed over counted items, by its definition; the squared error of numbers."""
    if distribution.are_numbers:
        return (one - other).square().squeeze(-1).mean(-1).sum()
    if distribution.possible is not None:
        possible = distribution.possible.expand_as(one)
        one, other = (values.masked_fill(~possible, -1e4) for values in (one, other))
    terms = (one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum(-1).mean(-1)
    return (terms if distribution.counted is None else terms * distribution.counted).sum()


def test_loss_and_gradients_are_those_of_the_formula_for_two_passes(task, make):
    student, batch = first_batch(make(R_DROP, "--adversarial.alpha=0.3"))
    student.model.double()
    found = gradients(student, batch)
    torch.manual_seed(1)
    passes = [student.compute(batch) for _ in range(2)]
    number = student.num_losses
    labels = sum((student.sums_of(each, batch)[:number] / student.counts(batch)[:number]).sum() for each in passes)
    loss = 0.5 * labels
    counts = student.distribution_counts(batch)
    for one, other, count in zip(*(student.distributions(each, batch) for each in passes), counts, strict=True):
        both = kl(one.logits, other.logits, one) + kl(other.logits, one.logits, one)
        loss = loss + 0.3 * both / 2 / count
    for mine, expected in zip(found, parameter_gradients(student, loss), strict=True):
        # Logits are in float32, and so are their differences.
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_without_dropout_both_passes_are_equal_bit_for_bit_and_differ_with_it(task, make):
    student, batch = first_batch(make(R_DROP, *NO_DROPOUT))
    sums = student.step_method.sums(batch, WholeBatch(student.step_method, batch))
    number = student.num_losses
    assert not sums[number : 2 * number].any()
    torch.testing.assert_close(sums[:number], student.sums(batch).detach()[:number], rtol=1e-6, atol=0)
    student, batch = first_batch(make(R_DROP))
    sums = student.step_method.sums(batch, WholeBatch(student.step_method, batch))
    assert (sums[number : 2 * number] > 0).all()


def test_without_dropout_the_gradient_is_the_plain_one(task, make):
    student, batch = first_batch(make(R_DROP, "--adversarial.alpha=2.0", *NO_DROPOUT))
    student.model.double()
    plain = gradients(student, batch, method=PlainStep(student))
    for one, other in zip(gradients(student, batch), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_first_pass_draws_the_masks_of_plain_training(texts):
    student, batch = first_batch(texts(R_DROP, "--adversarial.alpha=0"))
    losses, recorded = student.step_method.losses, []
    compute = student.compute
    student.compute = lambda batch: recorded.append(compute(batch)) or recorded[-1]
    torch.manual_seed(1)
    losses.sums(batch)
    torch.manual_seed(1)
    plain = compute(batch)
    one, other = ([each.logits for each in student.distributions(found, batch)] for found in recorded)
    assert same(one, [each.logits for each in student.distributions(plain, batch)])
    assert not same(one, other)


def test_regression_has_the_squared_error_of_the_passes_once(experiments, tmp_path):
    rows = [f"a text {number}\t{number / 3}" for number in range(12)]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    values = experiments["text-classification"]
    data = {
        "train": str(tmp_path / "train.tsv"),
        "validation": str(tmp_path / "dev.tsv"),
        "problem": "regression",
    }
    data |= {"tokenizer": values["data"]["tokenizer"], "max_seq_length": 16, "batch_size": 8}
    student, batch = first_batch(maker({**values, "data": data})(R_DROP))
    torch.manual_seed(1)
    one, other = (student.compute(batch) for _ in range(2))
    torch.manual_seed(1)
    sums = student.step_method.losses.sums(batch)
    torch.testing.assert_close(sums[1], F.mse_loss(one, other, reduction="sum"))


@pytest.mark.parametrize("name", ["r-drop", "smart"])
def test_a_crf_has_no_predictions_to_compare(experiments, name):
    make = maker(experiments["token-classification"])
    message = f"^adversarial.name {name} compares predictions, .* token-classification with a CRF, which scores whole"
    with pytest.raises(InputError, match=message):
        build_training(make(f"--adversarial.name={name}", "--model.head.crf=true"), None)


@pytest.mark.parametrize("name", ["fgm", "pgd", "freelb"])
def test_a_crf_is_trained_against_perturbations(experiments, name, recorded):
    make = maker(experiments["token-classification"])
    student, batch = first_batch(make(f"--adversarial.name={name}", "--model.head.crf=true"))
    found = gradients(student, batch)
    assert recorded[-1].any()
    assert all(gradient.isfinite().all() for gradient in found)
