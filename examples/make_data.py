"""Write `reviews/`: the tables and the vocabulary that all examples train on.

A review has a grade from 1 to 5, and the mood that follows from it.
"""

import random
from pathlib import Path

from bert_lightning.text.vocabulary import train_wordpiece

# The words for each grade.
WORDS = [
    ["awful", "horrible"],
    ["poor", "disappointing"],
    ["decent", "ordinary"],
    ["good", "pleasant"],
    ["excellent", "wonderful"],
]
THINGS = ["soup", "service", "room", "view", "music", "coffee", "bread", "garden"]


def review(generator: random.Random) -> tuple[str, int]:
    """Return a sentence and its grade, which is that of its second half."""
    first, second = (generator.randrange(5) for _ in range(2))
    one, other = generator.sample(THINGS, 2)
    start = f"The {one} was {generator.choice(WORDS[first])}"
    return f"{start}, but above all the {other} was {generator.choice(WORDS[second])}.", second + 1


def write(folder: Path) -> None:
    """Write the files. They are the same every time."""
    folder.mkdir(exist_ok=True)
    generator, texts = random.Random(1), []
    for split, size in {"train": 480, "validation": 80, "test": 80}.items():
        rows = [review(generator) for _ in range(size)]
        lines = [f"{text}\t{grade}\t{'good' if grade > 3 else 'bad'}\n" for text, grade in rows]
        (folder / f"{split}.tsv").write_text("text\tgrade\tmood\n" + "".join(lines))
        texts += [text for text, _ in rows]
    train_wordpiece(texts, 200).save(folder / "tokenizer")


if __name__ == "__main__":
    write(Path(__file__).parent / "reviews")
