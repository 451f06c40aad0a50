"""AG's news topics (Zhang, Zhao and LeCun 2015): CSV without a header, with class 1 to 4, title and description."""

from collections.abc import Iterator
from itertools import count

from bert_lightning.data.datasets.examples import LabelledText
from bert_lightning.data.reading.tables import column, read_rows
from bert_lightning.errors import InputError

AG_NEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")


def read_ag_news(source: str) -> Iterator[LabelledText]:
    """Stream `train.csv` or `test.csv`. Title and description, joined by a space, are one text.

    Some copies have a header, which is skipped.

    Raises:
        InputError: a row does not have three columns, or its class is not 1 to 4.
    """
    classes = {str(number): name for number, name in enumerate(AG_NEWS_LABELS, 1)}
    numbers = count()
    for row in read_rows(source, ("class", "title", "description")):
        label = column(row, "class")
        if label == "Class Index":
            # The header is: Class Index, Title, Description.
            continue
        if label not in classes:
            raise InputError(f"{row.location}: the class {label!r} is none of {', '.join(classes)}")
        text = f"{column(row, 'title')} {column(row, 'description')}"
        yield LabelledText(row.location, text, None, classes[label], str(next(numbers)))
