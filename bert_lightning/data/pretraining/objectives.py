"""The table of objectives besides masking, with the samples of each."""

from typing import Literal

from bert_lightning.data.pretraining.full_sentences import DocumentSentences, FullSentences
from bert_lightning.data.pretraining.samples import Samples
from bert_lightning.data.pretraining.sentence_pairs import OrderedPairs, SentencePairs

ObjectiveName = Literal["next-sentence", "sentence-order", "full-sentences", "document-sentences"]
OBJECTIVES: dict[ObjectiveName, type[Samples]] = {
    "next-sentence": SentencePairs,
    "sentence-order": OrderedPairs,
    "full-sentences": FullSentences,
    "document-sentences": DocumentSentences,
}
