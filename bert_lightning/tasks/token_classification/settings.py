"""Settings of the data of token classification."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from bert_lightning.checks import require_at_least
from bert_lightning.tags import TagScheme
from bert_lightning.tasks.fine_tuning.settings import FineTuningData, HeadSettings


@dataclass(frozen=True)
class TokenClassificationData(FineTuningData):
    """Data of token classification.

    Sources are column files (CoNLL, two columns), CoNLL-U, tables with lists, a hub data set, or a standard data set.

    Attributes:
        token_column: column of the words. In column files it is a number counted from 0, negative from the end;
            without it the first column.
        tag_column: column of the tags; without it the last one of a column file.
        source_scheme: the scheme of the tags in the files: IOB1, IOB2, BIOES, BILOU, `none` for plain labels, or
            `auto`, which decides by the tags of the training file (`tag_verdict.judge_tags`).
        tag_scheme: the scheme that the model is trained on. Spans are scored in the same way for every scheme.
        broken_tags: the treatment of tags that break their scheme: `repair` reads them as conlleval does and warns
            about their number, `error` stops.
        window_overlap: word pieces that two neighbouring windows share, if a sentence is longer than max_seq_length.
        document_context: word pieces of the same document that are shown on each side of a sentence. A file that
            marks no documents has no context, but at least one file must mark them.
        label_all_pieces: train on every piece of a word, not on its first alone.
    """

    task: ClassVar[str] = "token-classification"

    token_column: str | None = None
    tag_column: str | None = None
    source_scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "BILOU", "none"] = "auto"
    tag_scheme: TagScheme = "IOB2"
    broken_tags: Literal["repair", "error"] = "repair"
    window_overlap: int = 32
    document_context: int = 0
    label_all_pieces: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "window_overlap", "document_context")
        self.refuse_with_dataset("token_column", "tag_column")
        if self.window_overlap > (self.max_seq_length - 2) // 2:
            raise ValueError(
                f"window_overlap is {self.window_overlap}; with max_seq_length {self.max_seq_length} it must be at "
                f"most {(self.max_seq_length - 2) // 2}, half of the room"
            )

    @property
    def tags_are_plain(self) -> bool:
        """Whether the settings or the data set say that tags are plain labels, which mark no spans."""
        standard = self.standard
        by_default = standard is not None and standard.scheme == "none" and self.source_scheme == "auto"
        return by_default or self.source_scheme == "none"

    def without_dataset(self) -> Self:
        """Return the settings with the scheme of the data set."""
        scheme = "none" if self.tags_are_plain else self.source_scheme
        return replace(self, dataset=None, folder=None, source_scheme=scheme)


@dataclass(frozen=True)
class TokenClassificationHead(HeadSettings):
    """Head of token classification.

    Attributes:
        crf: score whole sequences of tags with a linear-chain CRF.
    """

    crf: bool = False
