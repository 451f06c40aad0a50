"""Differences between our models and those of transformers with the same weights.

python tests/support/parity.py        prints the largest for every model, shape, GELU form and dtype
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from bert_lightning.checkpoints.names import to_huggingface
from bert_lightning.model import (
    PRESETS,
    BertConfig,
    BertEncoder,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from bert_lightning.model.losses import sequence_losses, span_losses

V, S, NUM_LABELS = 211, 24, 3


class Batch(NamedTuple):
    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor


def make_batch(padded: bool, batch_size: int = 3) -> Batch:
    torch.manual_seed(1)
    ids = torch.randint(5, V, (batch_size, S))
    segments = (torch.arange(S) >= 10).long().repeat(batch_size, 1)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 15:] = 0
        mask[2, 3:] = 0
    return Batch(ids, segments, mask)


def _labels(batch: Batch) -> Tensor:
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    labels[:, 4:] = -100
    return labels


OUTPUT_BIASES = {"classifier.bias", "qa_outputs.bias"}

# model -> (ours, theirs): outputs by name, the loss among them.


def _pretraining(ours, theirs, batch):
    labels, next_labels = _labels(batch), torch.tensor([0, 1, 1])
    out = ours(*batch)
    loss = F.cross_entropy(out.prediction_logits.flatten(0, 1), labels.flatten())
    loss = loss + F.cross_entropy(out.seq_relationship_logits, next_labels)
    expected = theirs(**batch._asdict(), labels=labels, next_sentence_label=next_labels)
    names = ("prediction_logits", "seq_relationship_logits")
    return (
        {"loss": loss} | {name: getattr(out, name) for name in names},
        {"loss": expected.loss} | {name: expected[name] for name in names},
    )


def _masked_lm(ours, theirs, batch):
    labels = _labels(batch)
    logits = ours(*batch)
    expected = theirs(**batch._asdict(), labels=labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return {"loss": loss, "logits": logits}, {"loss": expected.loss, "logits": expected.logits}


def _next_sentence(ours, theirs, batch):
    labels = torch.tensor([0, 1, 1])
    logits = ours(*batch)
    expected = theirs(**batch._asdict(), labels=labels)
    return (
        {"loss": F.cross_entropy(logits, labels), "logits": logits},
        {"loss": expected.loss, "logits": expected.logits},
    )


def _encoder(ours, theirs, batch):
    out = ours(*batch, output_hidden_states=True, output_attentions=True)
    expected = theirs(**batch._asdict(), output_hidden_states=True, output_attentions=True)

    def outputs(o):
        states = {f"hidden_state_{number}": state for number, state in enumerate(o.hidden_states)}
        weights = {f"attention_{number}": weight for number, weight in enumerate(o.attentions)}
        found = {"last_hidden_state": o.last_hidden_state, "pooler_output": o.pooler_output, **states, **weights}
        mask = batch.attention_mask.bool()
        real = {name: t[mask] for name, t in found.items() if t.shape[:2] == mask.shape}
        # A loss whose gradient reaches every parameter.
        loss = (real["last_hidden_state"] ** 2).mean() + o.pooler_output.sum()
        return found | real | {"loss": loss}

    return outputs(out), outputs(expected)


def _sequence(problem_type: str) -> Callable:
    def compare(ours, theirs, batch):
        labels = {
            "single_label_classification": torch.tensor([0, 2, 1]),
            "multi_label_classification": torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]).to(theirs.dtype),
            "regression": torch.tensor([[0.5, 1, 2], [-1, 3, 0], [2, 2, 2]]).to(theirs.dtype),
        }[problem_type]
        logits = ours(*batch)
        expected = theirs(**batch._asdict(), labels=labels)
        loss = sequence_losses(logits, labels, problem_type).mean()
        return {"loss": loss, "logits": logits}, {"loss": expected.loss, "logits": expected.logits}

    return compare


def _token(ours, theirs, batch):
    labels = (batch.input_ids % NUM_LABELS).masked_fill(batch.attention_mask == 0, -100)
    logits = ours(*batch)
    expected = theirs(**batch._asdict(), labels=labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return {"loss": loss, "logits": logits}, {"loss": expected.loss, "logits": expected.logits}


def _question(ours, theirs, batch):
    # The second answer lies outside its window.
    starts, ends = torch.tensor([1, S, 0]), torch.tensor([3, S + 4, 2])
    out = ours(*batch)
    expected = theirs(**batch._asdict(), start_positions=starts.clone(), end_positions=ends.clone())
    loss = span_losses(out.start_logits, out.end_logits, starts, ends).sum() / 2
    names = ("start_logits", "end_logits")
    return (
        {"loss": loss} | {name: getattr(out, name) for name in names},
        {"loss": expected.loss} | {name: expected[name] for name in names},
    )


def _multiple_choice(ours, theirs, batch):
    choices = Batch(*(torch.stack([tensor, tensor.flip(0)], dim=1) for tensor in batch))
    labels = torch.tensor([0, 1, 1])
    logits = ours(*choices)
    expected = theirs(**choices._asdict(), labels=labels)
    return (
        {"loss": F.cross_entropy(logits, labels), "logits": logits},
        {"loss": expected.loss, "logits": expected.logits},
    )


CASES: dict[str, tuple[Callable, Callable]] = {
    "BertModel": (BertEncoder, _encoder),
    "BertForPreTraining": (BertForPreTraining, _pretraining),
    "BertForMaskedLM": (BertForMaskedLM, _masked_lm),
    "BertForNextSentencePrediction": (BertForNextSentencePrediction, _next_sentence),
    "BertForTokenClassification": (lambda c: BertForTokenClassification(c, NUM_LABELS), _token),
    "BertForQuestionAnswering": (BertForQuestionAnswering, _question),
    "BertForMultipleChoice": (BertForMultipleChoice, _multiple_choice),
    **{
        f"BertForSequenceClassification ({kind})": (
            lambda c, kind=kind: BertForSequenceClassification(c, NUM_LABELS, problem_type=kind),
            _sequence(kind),
        )
        for kind in ("single_label_classification", "multi_label_classification", "regression")
    },
}


def with_random_biases(model: torch.nn.Module) -> torch.nn.Module:
    """Replace biases of 0 and scales of 1, which would hide a wrong one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def differences(
    case: str, size: str, act: str, padded: bool, dtype: torch.dtype, *, attention: str = "auto", **config
) -> dict[str, float]:
    """Output -> largest difference over largest value; `gradient` -> over the parameters, the norm of the difference
    over the larger of the gradient's own norm and a thousandth of the global one.

    The bias of a softmax's own scores stands apart: its gradient is a sum that is nearly or wholly 0 in truth, so in
    float32 it is mostly rounding, in both.
    """
    build, compare = CASES[case]
    torch.manual_seed(0)
    base = {"vocab_size": V, "num_hidden_layers": 2, "max_position_embeddings": 48, "hidden_act": act}
    ours = with_random_biases(build(BertConfig.preset(size, **base, **config)))
    ours.backbone.attention = attention
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = getattr(transformers, ours.architecture).from_pretrained(folder, attn_implementation="eager")
    ours, theirs = ours.to(dtype).eval(), theirs.to(dtype).eval()
    actual, expected = compare(ours, theirs, make_batch(padded))
    assert actual.keys() == expected.keys()
    found = {
        name: float((actual[name] - expected[name]).detach().abs().max() / expected[name].detach().abs().max())
        for name in expected
    }
    actual["loss"].backward()
    expected["loss"].backward()
    mine = to_huggingface({f"{ours.prefix}{n}": p.grad for n, p in ours.named_parameters() if p.grad is not None})
    other = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    if ours.prefix:
        mine = {name.removeprefix("bert."): gradient for name, gradient in mine.items()}
    if not ours.config.tie_word_embeddings:
        # transformers then has a second bias in its place.
        mine.pop("cls.predictions.bias")
    assert mine.keys() == other.keys(), mine.keys() ^ other.keys()
    total = torch.stack([gradient.norm() for gradient in other.values()]).norm()
    gradients = {
        name: float((mine[name] - other[name]).norm() / max(other[name].norm(), 1e-3 * total)) for name in other
    }
    for name in OUTPUT_BIASES & gradients.keys():
        found["gradient of output bias"] = gradients.pop(name)
    return found | {"gradient": max(gradients.values())}


def main() -> None:
    """Print the largest difference of each output over all shapes."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{'model':<62}{'output':<26}{'float64':>10}{'float32':>10}")
    for case in CASES:
        largest = {dtype: defaultdict(float) for dtype in (torch.float64, torch.float32)}
        for dtype, worst in largest.items():
            for size in PRESETS:
                for act in ("gelu", "gelu_new"):
                    for padded in (False, True):
                        for name, value in differences(case, size, act, padded, dtype).items():
                            name = name.rstrip("0123456789").rstrip("_")
                            worst[name] = max(worst[name], value)
        for name in largest[torch.float64]:
            print(f"{case:<62}{name:<26}{largest[torch.float64][name]:>10.1e}{largest[torch.float32][name]:>10.1e}")


if __name__ == "__main__":
    main()
