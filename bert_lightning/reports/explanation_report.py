"""The command `explain`: explanations of a file of raw input, as a page or as JSON."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from bert_lightning.checkpoints.files import write_atomically, write_text
from bert_lightning.data.reading.lines import named
from bert_lightning.errors import InputError
from bert_lightning.interpretability.explaining import (
    ExplanationSettings,
    NotExplainedError,
    chosen_settings,
    explain,
)
from bert_lightning.reports.explanation_page import PageContent, explanation_page
from bert_lightning.runs.explanation import Explanation
from bert_lightning.runs.predictor import Predictor, load
from bert_lightning.version import __version__
from bert_lightning.wording import count


@dataclass
class _Progress:
    """Counts of the inputs and explanations so far, and the inputs that were left out."""

    num_inputs: int = 0
    num_of_input: int = 0
    """explanations of the last input; an input may have several, such as its entities"""
    num_explanations: int = 0
    largest_error: float | None = None
    points: Counter[int] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)

    def begin_input(self) -> None:
        """Count an input."""
        self.num_inputs += 1
        self.num_of_input = 0

    def add(self, explanation: Explanation) -> None:
        """Count an explanation that is written."""
        self.num_explanations += 1
        self.num_of_input += 1
        if explanation.completeness_error is not None:
            assert explanation.num_points is not None
            self.largest_error = max(self.largest_error or 0.0, explanation.completeness_error)
            self.points[explanation.num_points] += 1

    def lines(self, settings: ExplanationSettings, output: Path) -> Iterator[str]:
        """Yield lines that describe the result."""
        inputs = count(self.num_inputs, "input")
        yield f"{count(self.num_explanations, 'explanation')} of {inputs} by {settings.method}: {output}"
        if self.largest_error is not None:
            more = [f"{count(number, 'explanation')} took {points:,}" for points, number in self.points.items()]
            taken = f"; {', '.join(more)}" if set(self.points) != {settings.num_points} else ""
            yield (
                f"completeness: the values miss {self.largest_error:.2g} of the difference of scores at most, with "
                f"{count(settings.num_points, 'point')}{taken}"
            )
        for message in self.left_out:
            yield f"left out: {message}"


def write_explanations(
    checkpoint: str,
    source: str,
    output: Path,
    *,
    method: str,
    target: str | None,
    num_points: int | None,
    replacement: str | None,
    base: str | None,
    allow_modules: Sequence[str],
    progress: Callable[[Iterable[Explanation]], Iterator[Explanation]],
) -> list[str]:
    """Explain every input of `source`, and write the explanations.

    An input without words, or one whose integrated gradients are refused, is left out. The file and the result name
    it. A page ends before it grows too large for a browser; JSON has no such limit.

    Args:
        checkpoint: run directory or checkpoint file.
        source: a file, or `-` for standard input, as `predict` reads it.
        output: the file to write; its suffix decides what it is.
        method: name of the method.
        target: what is explained; None for the predictions.
        num_points: integrated gradients: the points of the path; None for the default.
        replacement: the token that stands for an absent word; None for the default.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: the user's modules that may be imported.
        progress: wraps the iterator of explanations, to show the progress.

    Returns:
        Lines that describe the result.

    Raises:
        InputError: the input or the checkpoint cannot be read, nothing can be explained, or the suffix is unknown.
        RefusedValue: a setting is not allowed.
    """
    if output.suffix not in (".html", ".json"):
        raise InputError(f"--output is {output}; explanations end in .html or .json")
    is_page = output.suffix == ".html"
    settings = chosen_settings(method, target, num_points=num_points, replacement=replacement)
    settings = replace(settings, maps=is_page)
    predictor = load(checkpoint, base=base, allow_modules=allow_modules)
    state = _Progress()
    explanations = progress(_explanations(predictor, source, settings, state))
    if is_page:
        content = PageContent(checkpoint, settings)
        for explanation in explanations:
            if not content.add(explanation):
                # The page is full. If it holds no explanation of this input, do not count the input.
                state.num_inputs -= not state.num_of_input
                break
            state.add(explanation)
        write_text(output, explanation_page(content, state.left_out))
    else:
        write_atomically(output, lambda file: _write_json(file, checkpoint, settings, explanations, state))
    lines = [*state.lines(settings, output)]
    return [*lines, content.limit] if is_page and content.limit else lines


def _explanations(
    predictor: Predictor, source: str, settings: ExplanationSettings, state: _Progress
) -> Iterator[Explanation]:
    """Yield the explanations of a file, count its inputs, and note those that are left out.

    Raises:
        InputError: there is nothing to explain.
    """
    for row in predictor.read(source):
        state.begin_input()
        try:
            yield from explain(predictor.task, row, settings)
        except NotExplainedError as error:
            state.left_out.append(str(error))
    if not state.num_inputs:
        raise InputError(f"{named([source])}: the input holds nothing to explain")
    if not state.num_explanations:
        raise InputError(state.left_out[0])


def _write_json(
    file: IO[bytes],
    checkpoint: str,
    settings: ExplanationSettings,
    explanations: Iterator[Explanation],
    state: _Progress,
) -> None:
    """Write one explanation per line, so that memory does not grow with the input."""
    head = {
        "version": __version__,
        "checkpoint": checkpoint,
        "method": settings.method,
        "target": settings.target,
        "replacement": settings.replacement,
    }
    file.write(f'{json.dumps(head)[:-1]}, "explanations": [\n'.encode())
    for number, explanation in enumerate(explanations):
        file.write((",\n" if number else "").encode() + json.dumps(explanation.as_dict()).encode())
        state.add(explanation)
    file.write(f'\n], "left_out": {json.dumps(state.left_out)}}}\n'.encode())
