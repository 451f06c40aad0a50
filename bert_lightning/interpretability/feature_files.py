"""`features`: hidden states of texts as a file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import write_atomically, write_safetensors
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.data.reading.lines import STANDARD_INPUT, named, read_lines
from bert_lightning.data.reading.sources import refuse_other_table, warn_of_json_row
from bert_lightning.data.reading.tables import column, is_table, read_rows
from bert_lightning.errors import InputError
from bert_lightning.runs.predictor import FeatureExtractor, FeatureForm, Features
from bert_lightning.wording import count

# Texts of one row group of a Parquet file, which are held at once.
_ROW_GROUP = 1024


def write_features(
    checkpoint: str,
    source: str,
    output: Path,
    *,
    layers: Sequence[int],
    form: FeatureForm,
    text_column: str,
    max_seq_length: int | None,
    progress: Callable[[Iterable[Any]], Iterator[Any]],
) -> str:
    """Write the states of each text of `source`; a line that says what was written.

    `.safetensors`, held in memory as a whole: `states` (T, layers, H) of all texts' tokens end to end with
    `boundaries` (n + 1,), or (n, layers, H) where a text is one vector; `layers` and `form` in the metadata.
    `.parquet`, written as it comes: a row a text with `text`, `tokens` and, a layer, `layer_N`: (S, H) or (H,).

    Raises:
        InputError: unreadable input, no text, or a layer or form that the model does not have.
    """
    if output.suffix not in (".safetensors", ".parquet"):
        raise InputError(f"--output {output}: features end in .safetensors or .parquet")
    extractor = FeatureExtractor(read_checkpoint(checkpoint))
    names = ["pooler"] if form == "pooler" else [f"layer_{layer}" for layer in extractor.layers(layers)]
    texts: list[str] = []

    def read() -> Iterator[str]:
        if source != STANDARD_INPUT and is_table(source):
            rows = (column(row, text_column) for row in read_rows(source))
        else:
            refuse_other_table(source)
            rows = (line for _, line in read_lines(source))
        is_empty = True
        for text in rows:
            if is_empty and not is_table(source):
                warn_of_json_row(f"{source}: line 1", text)
            is_empty = False
            if output.suffix == ".parquet":
                texts.append(text)
            yield text
        if is_empty:
            raise InputError(f"{named([source])}: there is no text in the input")

    found = progress(extractor.extract(read(), layers, form, max_seq_length))
    if output.suffix == ".parquet":
        number = _write_parquet(output, texts, found, names)
    else:
        number = _write_safetensors(output, found, names, form)
    width = extractor.encoder.config.hidden_size
    return f"{count(number, 'text')}, {', '.join(names)}, {width} wide: {output}"


def _write_safetensors(output: Path, found: Iterator[Features], names: list[str], form: FeatureForm) -> int:
    from safetensors.numpy import save

    states = [each.states for each in found]
    tensors: dict[str, NDArray[Any]]
    if form == "tokens":
        boundaries = np.cumsum([0, *(each.shape[1] for each in states)], dtype=np.int64)
        tensors = {"states": np.concatenate(states, axis=1).swapaxes(0, 1).copy(), "boundaries": boundaries}
    else:
        tensors = {"states": np.stack(states)}
    content = save(tensors, {"layers": ",".join(names), "form": form})
    write_safetensors(output, content)
    return len(states)


def _write_parquet(output: Path, texts: list[str], found: Iterator[Features], names: list[str]) -> int:
    import pyarrow
    from pyarrow import parquet

    number = 0

    def write(file: Any) -> None:
        nonlocal number
        writer = None
        rows: list[dict[str, Any]] = []

        def flush() -> None:
            nonlocal writer
            table = pyarrow.Table.from_pylist(rows)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            rows.clear()

        for each in found:
            number += 1
            # Read ahead of what came out, in order.
            row: dict[str, Any] = {"text": texts.pop(0), "tokens": each.tokens}
            row |= {name: state.tolist() for name, state in zip(names, each.states, strict=True)}
            rows.append(row)
            if len(rows) == _ROW_GROUP:
                flush()
        if rows:
            flush()
        assert writer is not None, "an empty input was refused"
        writer.close()

    write_atomically(output, write)
    return number
