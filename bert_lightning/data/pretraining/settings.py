"""The `data` section of a pre-training configuration."""

from dataclasses import dataclass, field
from typing import Literal

from bert_lightning.checks import refuse_empty_paths, require_at_least, require_between
from bert_lightning.data.pretraining.masking import Masking, TokenMasking
from bert_lightning.data.pretraining.objectives import ObjectiveName
from bert_lightning.data.pretraining.stages import BatchSizeWarmup, PretrainingStage

Batching = Literal["padded", "bucketed", "packed"]


@dataclass(frozen=True)
class PretrainingData:
    """Token stores, and how samples are made from them.

    Attributes:
        train: token store to train on, or several with the weight of each: {stores/books: 0.2, stores/wiki: 0.8}.
        validation: token store of held-out documents.
        test: token store for `bert-lightning test`.
        objective: the objective besides masking: next-sentence (pairs; does B follow A? as published), sentence-order
            (pairs; are A and B swapped?), full-sentences (single texts that continue into the next document) or
            document-sentences (single texts within one document).
        max_seq_length: longest sample in tokens, special tokens included; validation and test use it in every stage.
        short_sequence_probability: fraction of samples cut to a random length; 0.1 as published.
        masking: which tokens are predicted, and what replaces them.
        dupe_factor: for static samples and masks, the number of epochs that are drawn and masked differently. Later
            epochs repeat them, in another order if the store has a single round. 10 in `create_pretraining_data.py`.
            null draws and masks every epoch anew.
        stages: changes at later steps, such as longer samples for the last tenth of the steps.
        batch_size: samples (with packed batching: bins) per optimiser step, over all processes and accumulated
            micro-batches.
        batch_size_warmup: smaller batches in the first steps; each batch size is a stage and draws new samples.
        batching: padded: samples in random order; bucketed: samples of similar length together; packed: samples end
            to end in bins of max_seq_length tokens, batch_size bins per step, without padding.
        evaluation_batch_size: samples per batch in validation and test.
        max_evaluation_samples: limit of the samples scored in validation and test; they are the same in every run.
        num_workers: processes that prepare batches ahead; 0 prepares them in the training process.
    """

    train: str | dict[str, float] | None = None
    validation: str | None = None
    test: str | None = None
    objective: ObjectiveName = "next-sentence"
    max_seq_length: int = 128
    short_sequence_probability: float = 0.1
    masking: Masking = field(default_factory=TokenMasking)
    dupe_factor: int | None = None
    stages: list[PretrainingStage] = field(default_factory=list)
    batch_size: int = 32
    batch_size_warmup: BatchSizeWarmup = field(default_factory=BatchSizeWarmup)
    batching: Batching = "padded"
    evaluation_batch_size: int = 64
    max_evaluation_samples: int | None = 2048
    num_workers: int = 1

    def __post_init__(self) -> None:
        refuse_empty_paths(self, "train", "validation", "test")
        require_at_least(self, 5, "max_seq_length")
        require_at_least(self, 1, "batch_size", "evaluation_batch_size", "max_evaluation_samples", "dupe_factor")
        require_at_least(self, 0, "num_workers")
        require_between(self, 0, 1, "short_sequence_probability")
        steps = [stage.from_step for stage in self.stages]
        if steps != sorted(set(steps)):
            raise ValueError(f"stages begin at the steps {steps}; each must begin after the one before it")
        full = self.batch_size_warmup.sizes(self.batch_size)[-1][0]
        if steps and steps[0] <= full:
            raise ValueError(
                f"stages.0.from_step is {steps[0]}; it must be more than {full}, the step at which batch_size_warmup "
                "ends"
            )
        if isinstance(self.train, dict) and not self.train:
            raise ValueError("train names no token store: name one, or several with their weights")

    @property
    def longest(self) -> int:
        """The longest sample of any stage, in tokens."""
        return max([self.max_seq_length, *(stage.max_seq_length or 0 for stage in self.stages)])
