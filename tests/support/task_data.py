"""Small learnable files for every fine-tuning task, made of the words of `small_corpus.py`."""

import json
import random
from pathlib import Path
from typing import Any

from bert_lightning.text.wordpiece import WordPieceTokenizer
from tests.support.small_corpus import ADJECTIVES, NOUNS, VERBS, sentence

TOPICS = ("animals", "nature", "places")
# The answers have several pieces in a small vocabulary.
CLOZE: dict[str, Any] = {
    "pattern": "{sentence} The {mask}.",
    "verbalizer": {"animals": "cat", "nature": ["river", "tree"], "places": "house"},
}
SIZES = {"train": 48, "validation": 20, "test": 21}


def tagged(generator: random.Random) -> list[tuple[str, str]]:
    """Make a sentence in which each `adjective noun` is a span of the noun's topic."""
    words: list[tuple[str, str]] = [("The", "O")]
    for _ in range(2):
        topic = generator.randrange(3)
        words += [(generator.choice(ADJECTIVES), f"B-{TOPICS[topic]}")]
        words += [(generator.choice(NOUNS[4 * topic : 4 * topic + 4]), f"I-{TOPICS[topic]}")]
        words += [(generator.choice(VERBS), "O")]
    return [*words, (".", "O")]


def write_columns(path: Path, sentences: list[list[tuple[str, str]]]) -> Path:
    """Write one word and its tag per line."""
    path.write_text("\n".join("".join(f"{w}\t{t}\n" for w, t in words) for words in sentences), encoding="utf-8")
    return path


def squad(generator: random.Random, size: int, no_answer: bool = False) -> dict[str, Any]:
    """Make questions about which noun does something; with `no_answer` a third of them have no answer."""
    paragraphs = []
    for number in range(size):
        subject, other = generator.sample(NOUNS, 2)
        verb, unused = generator.sample(VERBS, 2)
        adjective, another = generator.sample(ADJECTIVES, 2)
        context = f"The {adjective} {subject} {verb} the {another} {other}."
        impossible = no_answer and number % 3 == 0
        question = {"id": f"q{number}", "question": f"What {unused if impossible else verb} the {another} {other}?"}
        answers = [] if impossible else [{"text": subject, "answer_start": context.index(subject)}]
        question |= {"answers": answers, **({"is_impossible": impossible} if no_answer else {})}
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "2.0" if no_answer else "1.1", "data": [{"title": "words", "paragraphs": paragraphs}]}


def choices(generator: random.Random, number: int) -> dict[str, Any]:
    """Make choices among three sentences, of which one is about the same thing."""
    topic, label = generator.randrange(3), generator.randrange(3)
    others = [each for each in range(3) if each != topic]
    texts = [sentence(generator, each) for each in others]
    texts.insert(label, sentence(generator, topic))
    return {"id": str(number), "context": sentence(generator, topic), "choices": texts, "label": label}


def relation(generator: random.Random) -> dict[str, str]:
    """Mark two nouns; their relation is the verb between them."""
    one, other = generator.sample(NOUNS, 2)
    verb = generator.choice(VERBS[:3])
    return {"text": f"The old <e1>{one}</e1> {verb} the red <e2>{other}</e2>.", "label": verb}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write one row per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task_data(task: str, tables: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Write the files of a fine-tuning task to `folder`, and return its data settings."""
    if task in ("text-classification", "cloze"):
        columns = {"text_column": "sentence", "label_column": "topic"}
        files = {split: str(path) for split, path in tables.items()}
        return files | columns | (CLOZE if task == "cloze" else {})
    files: dict[str, Any] = {}
    for seed, (split, size) in enumerate(SIZES.items()):
        generator = random.Random(seed)
        path = folder / split
        if task == "token-classification":
            files[split] = write_columns(path.with_suffix(".conll"), [tagged(generator) for _ in range(size)])
        elif task == "question-answering":
            files[split] = path.with_suffix(".json")
            files[split].write_text(json.dumps(squad(generator, size)))
        elif task == "multiple-choice":
            files[split] = write_jsonl(path.with_suffix(".jsonl"), [choices(generator, n) for n in range(size)])
        else:
            files[split] = write_jsonl(path.with_suffix(".jsonl"), [relation(generator) for _ in range(size)])
    settings: dict[str, Any] = {split: str(path) for split, path in files.items()}
    if task == "question-answering":
        settings |= {"max_question_length": 12, "doc_stride": 8}
    if task == "token-classification":
        settings["window_overlap"] = 8
    return settings


def short_experiment(task: str, stores: tuple[Path, Path], tables: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Return the values of an experiment of any task that trains four steps; it lacks a model and a tokenizer.

    Args:
        task: the name of the task.
        stores: token stores to train on and to validate with.
        tables: the files of text classification.
        folder: receives the files of other tasks.
    """
    if task == "pretraining":
        train, validation = map(str, stores)
        files = {"train": train, "validation": validation, "num_workers": 0}
    else:
        files = task_data(task, tables, folder)
    return {
        "experiment": "short",
        "task": task,
        "optimizer": {"learning_rate": 1e-3},
        "trainer": {"max_steps": 4, "val_check_interval": 2, "accelerator": "cpu", "precision": "32"},
        "wandb": {"mode": "disabled"},
        "data": {"max_seq_length": 40, "batch_size": 8, **files},
    }


RAW: dict[str, list[dict[str, Any]]] = {
    "pretraining": [{"text": "The old cat [MASK] the young [MASK]."}, {"text": "The [MASK] dog."}],
    "text-classification": [{"sentence": "The old cat sees the young dog."}, {"sentence": ""}],
    "cloze": [{"sentence": "The old cat sees the young dog."}, {"sentence": ""}],
    "token-classification": [{"text": "The old cat sees."}, {"tokens": ["red", "house", "\x01"]}, {"tokens": []}],
    "question-answering": [
        {"question": "What sees?", "context": "The old cat sees the dog."},
        {"question": "What?", "context": "The cat. " * 40},
    ],
    "multiple-choice": [
        {"context": "The old cat.", "choices": ["The dog.", "The road.", "The tree."]},
        {"context": "The road.", "question": "Where?", "choices": ["house", ""]},
    ],
    "relation-classification": [
        {"text": "The <e1>cat</e1> sees the <e2>dog</e2>."},
        {"text": "The <e2>cat</e2> " + "sees the old " * 30 + "<e1>dog</e1>."},
    ],
}


def tiny_classification(tables: dict[str, Path], tokenizer: WordPieceTokenizer, folder: Path) -> dict[str, Any]:
    """Experiment values of a classifier that trains in a second; the tokenizer is saved in `folder`."""
    tokenizer.save(folder / "tokenizer")
    return {
        "experiment": "tiny",
        "task": "text-classification",
        "model": {
            "size": "tiny",
            "config": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
        },
        "data": {
            **{split: str(tables[split]) for split in ("train", "validation")},
            "text_column": "sentence",
            "label_column": "topic",
            "tokenizer": str(folder / "tokenizer"),
            "max_seq_length": 16,
            "batch_size": 8,
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "precision": "32"},
        "wandb": {"mode": "disabled"},
    }
