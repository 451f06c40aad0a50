"""The command `features`: write hidden states of texts to a file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bert_lightning.checkpoints.files import write_atomically, write_safetensors
from bert_lightning.data.reading.lines import STANDARD_INPUT, named, read_lines
from bert_lightning.data.reading.sources import refuse_other_table, warn_of_json_row
from bert_lightning.data.reading.tables import column, is_table, read_rows
from bert_lightning.errors import InputError
from bert_lightning.interpretability.features import FeatureExtractor, FeatureForm, Features
from bert_lightning.runs.inference_device import InferencePrecision
from bert_lightning.wording import count

# Number of texts in a row group of a Parquet file; a row group is held in memory.
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
    progress: Callable[[Iterable[Features]], Iterator[Features]],
    base: str | None = None,
    allow_modules: Sequence[str] = (),
    precision: InferencePrecision = "32",
) -> str:
    """Write the hidden states of each text of `source`.

    A `.safetensors` file is held in memory as a whole. `states` is (T, layers, H): all tokens of all texts end to
    end, with `boundaries` (n + 1,) between the n texts. With one vector per text, `states` is (n, layers, H). The
    metadata holds `layers` and `form`.

    A `.parquet` file is streamed, one row per text: columns `text`, `tokens`, and one `layer_N` per layer, each
    (S, H) or (H,).

    Args:
        checkpoint: any checkpoint that can be read.
        source: a file, or `-` for standard input.
        output: the file to write.
        layers: numbers of the layers, where 0 is the embeddings.
        form: `tokens` for one vector per token; otherwise, how the vectors of a text become one vector.
        text_column: column of tables that holds the text.
        max_seq_length: longest sequence; None for all positions of the model.
        progress: wraps the iterator of features, to show the progress.
        base: the base of a checkpoint that holds only what was trained, if it has moved.
        allow_modules: the user's modules that may be imported for its model.
        precision: as for `load`.

    Returns:
        A line that describes the written file.

    Raises:
        InputError: the input is unreadable or has no text, or the model does not have a layer or form.
    """
    if output.suffix not in (".safetensors", ".parquet"):
        raise InputError(f"--output is {output}; features end in .safetensors or .parquet")
    extractor = FeatureExtractor.open(checkpoint, precision=precision, base=base, allow_modules=allow_modules)
    names = ["pooler"] if form == "pooler" else [f"layer_{layer}" for layer in extractor.layers(layers)]
    texts: list[str] = []

    def read() -> Iterator[str]:
        for text in read_texts(source, text_column):
            if output.suffix == ".parquet":
                texts.append(text)
            yield text

    features = progress(extractor.extract(read(), layers, form, max_seq_length))
    if output.suffix == ".parquet":
        number = _write_parquet(output, texts, features, names)
    else:
        number = _write_safetensors(output, features, names, form)
    width = extractor.encoder.config.hidden_size
    return f"{count(number, 'text')}, {', '.join(names)}, {width} wide: {output}"


def read_texts(source: str, text_column: str) -> Iterator[str]:
    """Read the texts of a table or the lines of a file or of standard input (`-`).

    Raises:
        InputError: the source cannot be read, lacks the column, or holds no text.
    """
    if source != STANDARD_INPUT and is_table(source):
        texts = (column(row, text_column) for row in read_rows(source))
    else:
        refuse_other_table(source)
        texts = (line for _, line in read_lines(source))
    is_empty = True
    for text in texts:
        if is_empty and not is_table(source):
            warn_of_json_row(f"{source}: line 1", text)
        is_empty = False
        yield text
    if is_empty:
        raise InputError(f"{named([source])}: the input holds no text")


def _write_safetensors(output: Path, features: Iterator[Features], names: list[str], form: FeatureForm) -> int:
    from safetensors.numpy import save

    states = [each.states for each in features]
    tensors: dict[str, NDArray[np.generic]]
    if form == "tokens":
        boundaries = np.cumsum([0, *(each.shape[1] for each in states)], dtype=np.int64)
        tensors = {"states": np.concatenate(states, axis=1).swapaxes(0, 1).copy(), "boundaries": boundaries}
    else:
        tensors = {"states": np.stack(states)}
    content = save(tensors, {"layers": ",".join(names), "form": form})
    write_safetensors(output, content)
    return len(states)


def _write_parquet(output: Path, texts: list[str], features: Iterator[Features], names: list[str]) -> int:
    import pyarrow
    from pyarrow import parquet

    number = 0

    def write(file: IO[bytes]) -> None:
        nonlocal number
        writer = None
        rows: list[dict[str, object]] = []

        def flush() -> None:
            nonlocal writer
            table = pyarrow.Table.from_pylist(rows)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            rows.clear()

        for each in features:
            number += 1
            # Texts are read ahead of their features, so the oldest text in the list belongs to these features.
            row: dict[str, object] = {"text": texts.pop(0), "tokens": each.tokens}
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
