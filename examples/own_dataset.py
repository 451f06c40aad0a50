"""A custom data set with a name: reviews in a format of their own."""

import re
from pathlib import Path

from bert_lightning import register_dataset

REVIEWS = Path(__file__).parent / "reviews"


def read_stars(file):
    """Yield the examples of a file with lines such as `*** The soup was decent.`; four stars or more are good."""
    for line in Path(file).read_text().splitlines():
        stars, text = re.fullmatch(r"(\*+) (.*)", line).groups()
        yield {"text": text, "label": "good" if len(stars) > 3 else "bad"}


def from_grades(split):
    """Return a function that yields the examples of a table with grades, which is read if no file is named."""

    def examples():
        for row in (REVIEWS / f"{split}.tsv").read_text().splitlines()[1:]:
            text, grade, _ = row.split("\t")
            yield {"text": text, "label": "good" if int(grade) > 3 else "bad"}

    return examples


register_dataset(
    "starred-reviews",
    task="text-classification",
    splits={"train": from_grades("train"), "validation": from_grades("validation"), "test": from_grades("test")},
    read=read_stars,  # reads the files that data.train, data.validation and data.test name instead
    labels=["bad", "good"],
    monitor="f1",
)
