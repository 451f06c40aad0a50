"""Benchmark of the forms in which a fine-tuned run can be shipped: float32, bfloat16 and int8.

Each form is scored on the validation data of the run, and timed on 256 sequences of them with one thread and with
two. The forms take turns, so the ratios hold on a busy machine too. A changed prediction has another label, answer or
tag than in float32.

    python experiments/benchmarks/forms.py RUN [--threads 1 2] [--rounds 9] [--json FILE]

BERT-base on the 872 phrases of SST-2 takes about 15 minutes on one core, L6 H384 about three.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from measuring import machine, write_json

from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.model.onnx_export import export_onnx
from bert_lightning.model.quantization import QUANTIZATIONS, OnnxForward, quantize
from bert_lightning.runs.measured_forms import Form, ValidationData, model_bytes
from bert_lightning.tasks.fine_tuning.task import FineTuningTask


def files_of(data: ValidationData, folder: Path) -> dict[str, Path]:
    """Write the ONNX file of a model and its quantised forms: name -> file."""
    files = {"float32, onnxruntime": folder / "float32.onnx"}
    export_onnx(data.task.model, files["float32, onnxruntime"])
    for number, quantization in enumerate(QUANTIZATIONS):
        files[f"{quantization}, onnxruntime"] = file = folder / f"{number}.onnx"
        quantize(files["float32, onnxruntime"], file, quantization)
    return files


def forms_of(data: ValidationData, files: Mapping[str, Path], num_threads: int) -> list[Form]:
    """Return all forms, float32 first; those of onnxruntime use `num_threads` threads."""
    model = data.task.model
    return [
        Form("float32, PyTorch", model_bytes(model)),
        Form("bf16-mixed, PyTorch", model_bytes(model), "bf16-mixed"),
        Form("bfloat16 weights, PyTorch", model_bytes(model, 2), "bf16-true"),
        *(
            Form(name, file.stat().st_size, forward=OnnxForward(file, model, num_threads))
            for name, file in files.items()
        ),
    ]


def decisions(data: ValidationData) -> list[dict[str, object]]:
    """Return what was predicted last for each example, without probabilities and scores."""
    task = data.task
    if not isinstance(task, FineTuningTask) or task.evaluation is None:
        return []
    predictions = task.predictions(task.evaluation.split, task.evaluation.outputs)
    return [
        {name: value for name, value in row.items() if name in ("label", "labels", "tags", "answer", "choice")}
        for row in predictions
    ]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a fine-tuned run with validation data")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options, overrides = parser.parse_known_args()
    data = ValidationData(options.run, read_checkpoint(options.run), overrides)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        files = files_of(data, Path(name))
        plain: list[dict[str, object]] = []
        for form in forms_of(data, files, options.threads[0]):
            rows[form.name] = {"score": data.score(form), "megabytes": form.num_bytes / 1e6}
            plain = plain or decisions(data)
            changed = sum(one != other for one, other in zip(plain, decisions(data), strict=True))
            rows[form.name]["changed_predictions"] = changed
        for num_threads in options.threads:
            torch.set_num_threads(num_threads)
            forms = forms_of(data, files, num_threads)
            costs = data.costs(forms, options.rounds)
            for form, cost in zip(forms, costs, strict=True):
                rows[form.name] |= {
                    "mean_difference": cost.mean_difference,
                    f"milliseconds_{num_threads}": cost.milliseconds,
                    f"faster_{num_threads}": costs[0].milliseconds / cost.milliseconds,
                }
    print_rows(rows, data, options.threads)
    at = machine()
    print(f"{data.num_sequences} sequences, {at['processor']}")
    # The name alone: by default it is the hash of the run's settings, and the path says nothing on other machines.
    settings = {"run": options.run.absolute().name, "threads": options.threads, "rounds": options.rounds}
    write_json(options.json, {"metric": data.metric, "forms": rows, "settings": settings})


def print_rows(rows: Mapping[str, Mapping[str, float]], data: ValidationData, threads: list[int]) -> None:
    """Print a Markdown table."""
    times = [f"ms, {number} thread{'s' * (number > 1)} | times as fast" for number in threads]
    print(f"| form | {data.metric} | changed | outputs differ by | MB | {' | '.join(times)} |")
    print(f"|---|---|---|---|---|{'---|---|' * len(threads)}")
    for name, row in rows.items():
        cells = [f"{row[f'milliseconds_{n}']:.2f} | {row[f'faster_{n}']:.2f}" for n in threads]
        print(
            f"| {name} | {row['score']:.4f} | {row['changed_predictions']:.0f} | {row['mean_difference']:.4f} | "
            f"{row['megabytes']:.1f} | {' | '.join(cells)} |"
        )


if __name__ == "__main__":
    main()
