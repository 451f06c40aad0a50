"""Writes the data of the sequence of tasks in continual.yaml: four small tasks from real text.

    python experiments/studies/continual_data.py "$BERT_LIGHTNING_DATA" continual_data

Each task has 1,000 training and 500 validation rows. SST-2, the fifth task, needs no preparation.

- novels: which of five novels a passage of 60 words is from.
- topics: which of eight Wikipedia articles a question of SQuAD is about.
- entities: whether a tweet of WNUT-17 names a person, place, product or the like.
- answers: whether a sentence answers a question of SQuAD; validation is on other articles (as in QNLI).
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Column -> text of a row.
Row = dict[str, str]
_NUM_TRAIN, _NUM_VALIDATION, _WORDS, _NUM_TOPICS = 1000, 500, 60, 8
_NOVELS = (
    "Braddon_Audley_1862",
    "Dickens_Bleak_1853",
    "James_Tragic_1890",
    "Lawrence_Women_1920",
    "Trollope_Warden_1855",
)


def novels(data: Path, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Return passages of novels, which do not overlap, with the author's name."""
    rows = []
    for novel in _NOVELS:
        words = (data / "novels" / f"{novel}.txt").read_text(encoding="utf-8").split()
        starts = draw.sample(range(0, len(words) - _WORDS, _WORDS), (_NUM_TRAIN + _NUM_VALIDATION) // len(_NOVELS))
        label = novel.partition("_")[0]
        rows += [{"text": " ".join(words[start : start + _WORDS]), "label": label} for start in starts]
    return _divided(rows, draw)


def _articles(data: Path) -> list[dict]:
    return list(json.loads((data / "squad/train-v1.1.json").read_text(encoding="utf-8"))["data"])


def topics(data: Path, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Return questions with the title of their article, of the articles with the most questions."""
    asked = {
        article["title"]: sorted({qa["question"].strip() for p in article["paragraphs"] for qa in p["qas"]})
        for article in _articles(data)
    }
    largest = sorted(asked, key=lambda title: (-len(asked[title]), title))[:_NUM_TOPICS]
    rows = [{"text": question, "label": title} for title in largest for question in asked[title]]
    return _divided(rows, draw)


def entities(data: Path, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Return tweets and whether they name an entity, as many of each kind."""
    train, validation = (_tweets(data / f"ner/wnut17/{split}.conll") for split in ("train", "dev"))
    return _balanced(train, _NUM_TRAIN, draw), _balanced(validation, _NUM_VALIDATION, draw)


def _tweets(path: Path) -> list[Row]:
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").replace("\r", ""))
    rows = []
    for block in blocks:
        pairs = [line.split("\t") for line in block.splitlines() if "\t" in line]
        if pairs:
            label = "entity" if any(pair[1].strip() != "O" for pair in pairs) else "none"
            rows.append({"text": " ".join(pair[0] for pair in pairs), "label": label})
    return rows


def answers(data: Path, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Return pairs of a question and a sentence of its paragraph, and whether the sentence holds the answer."""
    articles = _articles(data)
    draw.shuffle(articles)
    half = len(articles) // 2
    train, validation = (list(_pairs(part, draw)) for part in (articles[:half], articles[half:]))
    return _balanced(train, _NUM_TRAIN, draw), _balanced(validation, _NUM_VALIDATION, draw)


def _pairs(articles: Sequence[dict], draw: random.Random) -> Iterator[Row]:
    for paragraph in (each for article in articles for each in article["paragraphs"]):
        spans = [match.span() for match in re.finditer(r"\S.*?(?:[.!?](?=\s)|$)", paragraph["context"], re.DOTALL)]
        if len(spans) < 2:
            continue
        qa = draw.choice(paragraph["qas"])
        start = qa["answers"][0]["answer_start"]
        holds = [low <= start < high for low, high in spans]
        wanted = draw.random() < 0.5
        candidates = [span for span, has in zip(spans, holds, strict=True) if has == wanted]
        if candidates:
            low, high = draw.choice(candidates)
            text = " ".join(paragraph["context"][low:high].split())
            yield {"text": qa["question"].strip(), "pair": text, "label": "answer" if wanted else "other"}


def _divided(rows: list[Row], draw: random.Random) -> tuple[list[Row], list[Row]]:
    drawn = draw.sample(rows, _NUM_TRAIN + _NUM_VALIDATION)
    return drawn[:_NUM_TRAIN], drawn[_NUM_TRAIN:]


def _balanced(rows: Sequence[Row], num: int, draw: random.Random) -> list[Row]:
    labels = sorted({row["label"] for row in rows})
    parts = [draw.sample([row for row in rows if row["label"] == label], num // len(labels)) for label in labels]
    return [row for part in parts for row in part]


TASKS: dict[str, Callable[[Path, random.Random], tuple[list[Row], list[Row]]]] = {
    "novels": novels,
    "topics": topics,
    "entities": entities,
    "answers": answers,
}


def main() -> None:
    """Write a training and a validation table of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with novels/, squad/ and ner/")
    parser.add_argument("output", type=Path, help="folder for the tables")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, make in TASKS.items():
        # Each task draws by itself, so that none depends on another.
        draw = random.Random(name)
        for split, rows in zip(("train", "validation"), make(arguments.data, draw), strict=True):
            draw.shuffle(rows)
            lines = [
                "\t".join(rows[0]),
                *("\t".join(each.replace("\t", " ") for each in row.values()) for row in rows),
            ]
            path = arguments.output / f"{name}_{split}.tsv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
