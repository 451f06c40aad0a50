"""Pseudo-labels: training on texts that other models have labelled, as in the generations of iPET."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checks import refuse_empty_paths, refuse_nameless_runs, refuse_other_weights, require_at_least
from bert_lightning.data.loading.randomness import derive_key, uniforms


@dataclass(frozen=True)
class PseudoLabelSettings:
    """Training on the labels that other models give to texts without labels.

    Schick and Schütze 2021, arXiv 2001.07676, section 3.4 (iPET). In each generation, the models of the other
    patterns label texts, and a model trains on its own examples and on some of these. As published, the training set
    grows fivefold in each generation: with k examples per class, `per_class` is 4 k, then 24 k, then 124 k.

    Attributes:
        teachers: name -> a run of text classification or of the cloze task. Their logits are averaged.
        teacher_weights: name -> weight of that teacher in the average; by default, they count equally.
        per_class: how many texts of each label are added to the training examples.
        unlabelled: a table with the text columns. By default, the examples of the training file that
            `data.examples_per_class` leaves out; their labels are not used.
        max_samples: label only this many texts, the first ones.
        num_likeliest: draw the texts of a label from this many texts, those with the highest probability of the
            label, even if another label is more probable. PET does so in the first generation if there are no
            examples to train on. By default, they are drawn among the texts whose likeliest label it is.
    """

    teachers: dict[str, str]
    per_class: int
    unlabelled: str | None = None
    max_samples: int | None = None
    num_likeliest: int | None = None
    teacher_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("teachers is empty; it must name at least one run")
        refuse_nameless_runs(self, "teachers")
        refuse_other_weights(self, "teacher_weights", "teachers")
        refuse_empty_paths(self, "unlabelled")
        require_at_least(self, 1, "per_class", "max_samples")
        require_at_least(self, self.per_class, "num_likeliest")


def drawn_texts(
    probabilities: NDArray[np.float64], per_class: int, seed: int, num_likeliest: int | None = None
) -> list[tuple[int, int]]:
    """Choose texts of each label: return the number of each text and its label, in the order of the texts.

    A text gets its likeliest label. With `num_likeliest`, it may be drawn for several labels, and for unlikely ones.
    The texts of a label are drawn one after the other without replacement, with chances in proportion to the
    probability of the label. If there are too few, all of them are repeated until there are enough. Both are as
    in `generate_ipet_train_set` of PET's `modeling.py`. Each candidate has one random number, so the draw is a pure
    function of the arguments (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").

    Args:
        probabilities: (n, L) the probabilities of the labels of each text.
        per_class: how many texts of each label are chosen.
        seed: of the draw.
        num_likeliest: draw the texts of a label among this many for which it is most probable.

    Raises:
        ValueError: for some label there is no text of which it is the likeliest one. The message is its number.

    >>> drawn_texts(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), 1, seed=0)
    [(0, 0), (1, 1)]
    """
    labels = probabilities.argmax(1)
    chosen: list[tuple[int, int]] = []
    for label in range(probabilities.shape[1]):
        if num_likeliest is None:
            of_label = np.flatnonzero(labels == label)
        else:
            of_label = np.argsort(-probabilities[:, label], kind="stable")[:num_likeliest]
        if not len(of_label):
            raise ValueError(label)
        candidates = np.tile(of_label, -(-per_class // len(of_label)))
        numbers = 1 - uniforms(derive_key(seed, "pseudo_labels", label), np.arange(len(candidates)))
        # Draw an exponential waiting time for each candidate, with its probability as rate. The candidate with the
        # shortest time is candidate i with a chance in proportion to the probability of i.
        times = -np.log(numbers) / probabilities[candidates, label]
        first = candidates[np.argsort(times, kind="stable")[:per_class]]
        chosen += [(int(number), label) for number in first]
    return sorted(chosen)
