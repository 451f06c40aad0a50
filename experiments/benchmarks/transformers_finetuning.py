"""A plain loop over transformers that fine-tunes a model, for the benchmark of fine-tuning."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from measuring import synchronize
from torch.utils.data import DataLoader
from transformers_encoding import Features, text_features, window_features

# Name -> arguments of transformers' collator, without the longest length.
PADDINGS: dict[str, dict[str, Any]] = {
    "dynamic": {"padding": "longest"},
    "multiple": {"padding": "longest", "pad_to_multiple_of": 8},
    "maximum": {"padding": "max_length"},
}
EVALUATION_BATCH_SIZE = 64


class Recipe(NamedTuple):
    """What is trained, and how."""

    task: str
    start: Path
    """the start weights and the vocabulary"""
    trained: Path
    """the folder for the trained model"""
    max_seq_length: int
    overlap: int
    """of windows"""
    batch_size: int
    learning_rate: float
    num_steps: int
    seed: int
    device: str
    precision: str


class Times(NamedTuple):
    """Seconds of a training."""

    encoding: float
    training: float
    whole: float


def train(recipe: Recipe, padding: str, training: Sequence[Any], validation: Sequence[Any]) -> Times:
    """Train, compute the outputs for the validation examples, and save the model.

    Args:
        recipe: the training.
        padding: a name in `PADDINGS`.
        training: the examples to train on.
        validation: the examples to compute outputs for.
    """
    device = torch.device(recipe.device)
    transformers.set_seed(recipe.seed)
    began = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(recipe.start)
    if recipe.task == "squad":
        cls: Any = transformers.BertForQuestionAnswering
        encode = partial(window_features, tokenizer, recipe.max_seq_length, recipe.overlap)
    else:
        cls = transformers.BertForSequenceClassification
        encode = partial(text_features, tokenizer, recipe.max_seq_length)
    # The first call prepares the tokenizer, so it is not timed as encoding.
    encode(training[:1])
    began_encoding = time.perf_counter()
    features = encode(training)
    encoding = time.perf_counter() - began_encoding
    model = cls.from_pretrained(recipe.start, hidden_dropout_prob=0.1).to(device)
    arguments = {**PADDINGS[padding], "max_length": recipe.max_seq_length}
    collator = transformers.DataCollatorWithPadding(tokenizer, **arguments)
    seconds = _train(recipe, model, features, collator, device)
    _evaluate(recipe, model, encode(validation), collator, device)
    model.save_pretrained(recipe.trained)
    synchronize(device)
    return Times(encoding, seconds, time.perf_counter() - began)


def _autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bf16-mixed")


def _train(recipe: Recipe, model: Any, features: list[Features], collator: Any, device: torch.device) -> float:
    """Train all steps, and return their seconds."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, eps=1e-6, weight_decay=0.01, fused=True
    )
    steps = recipe.num_steps
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
    batches: Any = DataLoader(
        features,  # type: ignore[arg-type]
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collator,
        pin_memory=device.type == "cuda",
    )
    model.train()
    taken = 0
    synchronize(device)
    began = time.perf_counter()
    while taken < steps:
        for batch in batches:
            with _autocast(recipe):
                loss = model(**batch.to(device, non_blocking=True)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            taken += 1
            if taken == steps:
                break
    synchronize(device)
    return time.perf_counter() - began


def _evaluate(recipe: Recipe, model: Any, features: list[Features], collator: Any, device: torch.device) -> None:
    """Compute the outputs for some sequences, in order."""
    model.eval()
    with torch.inference_mode(), _autocast(recipe):
        for start in range(0, len(features), EVALUATION_BATCH_SIZE):
            model(**collator(features[start : start + EVALUATION_BATCH_SIZE]).to(device))
