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
    """Return a sentence and its grade."""
    grade = generator.randrange(5)
    thing, word = generator.choice(THINGS), generator.choice(WORDS[grade])
    form = generator.choice(("The {0} was {1}.", "{1} {0}!", "We had the {0}, and it was {1}."))
    return form.format(thing, word), grade + 1


def write(folder: Path) -> None:
    """Write the files. They are the same every time."""
    folder.mkdir(exist_ok=True)
    generator, texts = random.Random(1), []
    for split, size in {"train": 320, "validation": 64, "test": 64}.items():
        rows = [review(generator) for _ in range(size)]
        lines = [f"{text}\t{grade}\t{'good' if grade > 3 else 'bad'}\n" for text, grade in rows]
        (folder / f"{split}.tsv").write_text("text\tgrade\tmood\n" + "".join(lines))
        texts += [text for text, _ in rows]
    train_wordpiece(texts, 200).save(folder / "tokenizer")


if __name__ == "__main__":
    write(Path(__file__).parent / "reviews")
