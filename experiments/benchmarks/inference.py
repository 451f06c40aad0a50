"""Benchmark of inference: `predict` and `features` as a user calls them, and good loops over transformers.

A turn goes from texts to results: labels with probabilities for `predict`, and one mean vector per text for
`features`. The loops have SDPA, inference mode, batches of 32 and dynamic padding. `transformers_sorted` also sorts
the texts by length, as ours does. All contenders have the same weights and the same precision, and take turns.

    python experiments/benchmarks/inference.py [--size base] [--device cuda] [--json FILE]

Texts are phrases with the lengths of SST-2 (13 tokens on average) and paragraphs with those of SQuAD (145). The model
has 6 layers and width 384, or the size that `--size` names. Figures are texts per second.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers
from generated import SMALL_MODEL, paragraph_lengths, phrase_lengths, running_text, vocabulary
from measuring import Contender, in_turn, machine, ratio, spread, synchronize, write_json

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.model import BertConfig, BertForSequenceClassification
from bert_lightning.runs.predictor import Predictor
from bert_lightning.tasks.text_classification.settings import TextClassificationData
from bert_lightning.tasks.text_classification.task import TextClassificationTask
from bert_lightning.text.wordpiece import WordPieceTokenizer

BATCH_SIZE, LABELS = 32, ("0", "1")
PRECISIONS = ("32", "bf16-mixed")
# Kind of text -> its lengths, and how many there are.
TEXTS = {"phrases": (phrase_lengths, 1024), "paragraphs": (paragraph_lengths, 128)}


def texts_of(kind: str, share: float) -> list[str]:
    """Return generated texts of a kind, in random order."""
    lengths, number = TEXTS[kind]
    generator = np.random.default_rng(5)
    return running_text(generator, lengths(generator, max(2, round(number * share))))


def write_model(options: argparse.Namespace, folder: Path) -> None:
    """Write a classifier with random weights to a folder that transformers reads."""
    torch.manual_seed(0)
    size = len(vocabulary().entries)
    config = BertConfig.preset(options.size, vocab_size=size) if options.size else BertConfig(size, **SMALL_MODEL)
    BertForSequenceClassification(config, labels=LABELS).save_pretrained(folder, vocabulary())


class Theirs:
    """A loop over transformers.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        options: device and precision.
        outputs: turns an output and the mask of a batch into one result per text.
        by_length: whether texts are sorted by length first.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: argparse.Namespace,
        outputs: Callable[[Any, torch.Tensor], list[Any]],
        *,
        by_length: bool,
    ) -> None:
        self.device = torch.device(options.device)
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=options.precision == "bf16-mixed")
        self.outputs = outputs
        self.by_length = by_length

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """Return one result per text, in order."""
        limit = self.model.config.max_position_embeddings
        encoded = self.tokenizer(list(texts), truncation=True, max_length=limit)
        ids = encoded["input_ids"]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number])) if self.by_length else range(len(ids))
        results: list[Any] = [None] * len(ids)
        for start in range(0, len(ids), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            rows = {name: [encoded[name][number] for number in chosen] for name in encoded}
            batch = self.tokenizer.pad(rows, return_tensors="pt").to(self.device)
            with torch.inference_mode(), self.autocast:
                output = self.model(**batch)
            for number, result in zip(chosen, self.outputs(output, batch["attention_mask"]), strict=True):
                results[number] = result
        return results


def probabilities(output: Any, mask: torch.Tensor) -> list[dict[str, Any]]:
    """Return the label of each text, with the probability of every label."""
    values = output.logits.float().softmax(-1).tolist()
    return [
        {"label": LABELS[row.index(max(row))], "probabilities": dict(zip(LABELS, row, strict=True))} for row in values
    ]


def mean_vectors(output: Any, mask: torch.Tensor) -> list[Any]:
    """Return the mean of the last hidden states of each text."""
    states, weights = output.last_hidden_state.float(), mask[..., None]
    return list(((states * weights).sum(1) / weights.sum(1)).cpu().numpy())


def systems(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Callable[[Sequence[str]], list[Any]]]]:
    """Return operation -> contender -> a function from texts to results."""
    checkpoint, tokenizer = read_checkpoint(folder), transformers.AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_checkpoint(checkpoint, labels=LABELS)
    settings = TextClassificationData(max_seq_length=512)
    task = TextClassificationTask(
        model, model.encoder.config, WordPieceTokenizer(vocabulary()), settings, labels=LABELS
    )
    predictor = Predictor(task, options.device, options.precision)
    extractor = FeatureExtractor(checkpoint, options.device, options.precision)

    def features(texts: Sequence[str]) -> list[Any]:
        return [each.states[0] for each in extractor.extract(texts, form="mean")]

    def loops(cls: Any, outputs: Callable[[Any, torch.Tensor], list[Any]]) -> dict[str, Theirs]:
        theirs = cls.from_pretrained(folder, attn_implementation="sdpa")
        return {
            "transformers": Theirs(theirs, tokenizer, options, outputs, by_length=False),
            "transformers_sorted": Theirs(theirs, tokenizer, options, outputs, by_length=True),
        }

    return {
        "predict": {
            "ours": predictor.predict,
            **loops(transformers.BertForSequenceClassification, probabilities),
        },
        "features": {"ours": features, **loops(transformers.BertModel, mean_vectors)},
    }


def contender(system: Callable[[Sequence[str]], list[Any]], texts: Sequence[str], device: torch.device) -> Contender:
    """Return a contender that gives results for all texts in a turn."""

    def turn() -> list[float]:
        began = perf_counter()
        system(texts)
        synchronize(device)
        return [len(texts) / (perf_counter() - began)]

    return turn


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", help="tiny, mini, small, medium, base or large (default: 6 layers of width 384)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="32", choices=PRECISIONS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device(options.device)
    print(f"{options.size or 'L6 H384'}, {options.precision} on {options.device}")
    print(f"{'':42}{'texts/s':>10}{'middle half':>18}{'ours faster by':>16}")
    rates: dict[str, dict[str, float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_model(options, Path(name))
        for operation, by_name in systems(options, Path(name)).items():
            for kind in TEXTS:
                texts = texts_of(kind, options.share)
                turns = {system: contender(call, texts, device) for system, call in by_name.items()}
                # The first turn allocates memory, so it is not timed.
                in_turn(turns, 1)
                values = in_turn(turns, options.rounds)
                for system, each in values.items():
                    row = f"{operation}, {kind}, {system}"
                    rates[row], faster = spread(each), ratio(values["ours"], each)
                    if system != "ours":
                        ratios[row] = faster
                    low, high = rates[row]["low"], rates[row]["high"]
                    print(f"{row:42}{rates[row]['median']:10,.0f}{low:9,.0f}-{high:8,.0f}{faster['median']:15.2f}x")
    at = machine()
    print(f"{at['processor']}, {at['gpu'] or 'no GPU'}")
    content = {
        "texts_per_second": rates,
        "ratios": {name: value["median"] for name, value in ratios.items()},
        "ratio_spread": {name: [value["low"], value["high"]] for name, value in ratios.items()},
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
    }
    write_json(options.json, content)


if __name__ == "__main__":
    main()
