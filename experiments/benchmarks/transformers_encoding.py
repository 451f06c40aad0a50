"""Encoding of examples as in transformers' own scripts, for the benchmark of fine-tuning."""

from collections.abc import Sequence

import transformers

from bert_lightning.data.datasets.examples import LabelledText, Question

# Inputs of transformers' model for one sequence, by name.
Features = dict[str, list[int] | int]


def text_features(
    tokenizer: transformers.PreTrainedTokenizerBase, length: int, examples: Sequence[LabelledText]
) -> list[Features]:
    """Encode labelled texts, or pairs of texts, as `run_glue.py` does."""
    texts = tokenizer(*columns_of(examples), truncation=True, max_length=length)
    return [
        {**{name: texts[name][number] for name in texts}, "label": int(str(example.label))}
        for number, example in enumerate(examples)
    ]


def columns_of(examples: Sequence[LabelledText]) -> list[list[str]]:
    """Return the texts of all examples, and their second texts if they are pairs."""
    seconds = [example.text_pair for example in examples if example.text_pair is not None]
    return [[example.text for example in examples], *([seconds] if seconds else [])]


def window_features(
    tokenizer: transformers.PreTrainedTokenizerBase, length: int, overlap: int, examples: Sequence[Question]
) -> list[Features]:
    """Encode questions as `run_qa.py: prepare_train_features` does: sliding windows, answers by character."""
    encoded = tokenizer(
        [example.question for example in examples],
        [example.context for example in examples],
        truncation="only_second",
        max_length=length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    features = []
    for number, example in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets, segments = encoded["offset_mapping"][number], encoded.sequence_ids(number)
        answer = examples[example].answers[0]
        begin, end = answer.start, answer.start + len(answer.text)
        first = segments.index(1)
        last = len(segments) - 1 - segments[::-1].index(1)
        start = stop = 0
        if offsets[first][0] <= begin and offsets[last][1] >= end:
            start, stop = first, last
            while start <= last and offsets[start][0] <= begin:
                start += 1
            while offsets[stop][1] >= end:
                stop -= 1
            start, stop = start - 1, stop + 1
        names = ("input_ids", "token_type_ids", "attention_mask")
        features.append(
            {**{name: encoded[name][number] for name in names}, "start_positions": start, "end_positions": stop}
        )
    return features
