"""Benchmark of start-up: the time of `--help`, imports, and the first optimiser step of `fit`, in new processes.

They are compared with transformers: its import, its `BertForPreTraining`, and a plain process up to the end of its
first step with the same tiny model. Times are measured from the start of the process, in turn, and given as medians
with the middle half. The processor time of a process, which other work on the machine changes less, is in its own
column; that of a first step includes the end of the process. A ratio is the time of transformers over ours. `--help`
and `import bert_lightning` are compared with the bare import of transformers.

    python experiments/benchmarks/startup.py [--rounds 5] [--json FILE]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml
from generated import VOCAB_SIZE, store
from measuring import in_turn, spread, write_json

from bert_lightning.runs.directory import RunDirectory

BATCH_SIZE, LENGTH = 8, 128
# Contender of ours -> the contender that it is compared with.
YARDSTICKS = {
    "--help": "import transformers",
    "import bert_lightning": "import transformers",
    "import bert_lightning.model": "from transformers import BertForPreTraining",
    "first step": "first step, transformers",
}

_THEIRS = f"""
import time
import torch
from transformers import BertConfig, BertForPreTraining
config = BertConfig(
    vocab_size={VOCAB_SIZE}, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
)
model = BertForPreTraining(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(5, {VOCAB_SIZE}, ({BATCH_SIZE}, {LENGTH}))
labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
model(ids, labels=labels, next_sentence_label=torch.zeros({BATCH_SIZE}, dtype=torch.long)).loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
print(time.time())
"""


# Contender -> the processor time of each of its processes.
PROCESSOR: dict[str, list[float]] = {}


def measured(name: str, contender: Callable[[], float]) -> Sequence[float]:
    """Run a contender, record the processor time of its process, and return its time on the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = contender()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    PROCESSOR.setdefault(name, []).append(used)
    return [seconds]


def process(*arguments: str) -> float:
    """Return the seconds of a Python process from its start to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def first_step(experiment: Path, folder: Path) -> float:
    """Return the seconds from the start of `fit` to the end of its first step, by the time in `metrics.jsonl`."""
    directory = RunDirectory(tempfile.mkdtemp(dir=folder))
    began = time.time()
    process("-m", "bert_lightning", "fit", "--config", str(experiment), "--run-directory", str(directory.path))
    return float(directory.read_metrics()[0]["time"]) - began


def their_first_step() -> float:
    """Return the seconds to the end of the first step of a plain process with transformers."""
    began = time.time()
    ended = subprocess.run([sys.executable, "-c", _THEIRS], check=True, capture_output=True, text=True).stdout
    return float(ended.split()[-1]) - began


def write_experiment(folder: Path) -> Path:
    """Write a tiny pre-training of one step."""
    values = {
        "experiment": "startup",
        "task": "pretraining",
        "model": {"size": "tiny"},
        "data": {"train": str(store(folder, num_documents=4)), "max_seq_length": LENGTH, "batch_size": BATCH_SIZE},
        "trainer": {"max_steps": 1, "log_every_n_steps": 1, "accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "startup.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def contenders_of(folder: Path) -> dict[str, Callable[[], Sequence[float]]]:
    """Return the contenders, which take turns."""
    imports = ("bert_lightning", "bert_lightning.model", "torch", "transformers")
    codes = {f"import {name}": f"import {name}" for name in imports}
    codes["from transformers import BertForPreTraining"] = "from transformers import BertForPreTraining"
    experiment = write_experiment(folder)
    contenders: dict[str, Callable[[], float]] = {
        "python": lambda: process("-c", ""),
        "--help": lambda: process("-m", "bert_lightning", "--help"),
        "keys": lambda: process("-m", "bert_lightning", "keys"),
        **{name: partial(process, "-c", code) for name, code in codes.items()},
        "first step": lambda: first_step(experiment, folder),
        "first step, transformers": their_first_step,
    }
    return {name: partial(measured, name, contender) for name, contender in contenders.items()}


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        contenders = contenders_of(Path(name))
        # The first round reads files from disk and is not counted.
        in_turn(contenders, 1)
        PROCESSOR.clear()
        seconds = {name: spread(values) for name, values in in_turn(contenders, options.rounds).items()}
    ratios = {name: seconds[other]["median"] / seconds[name]["median"] for name, other in YARDSTICKS.items()}
    processor = {name: statistics.median(values) for name, values in PROCESSOR.items()}
    print(f"{'':46}{'seconds':>8}{'middle half':>14}{'processor':>11}{'ours faster by':>16}")
    for name, times in seconds.items():
        ratio = f"{ratios[name]:15.2f}x" if name in ratios else ""
        print(
            f"{name:46}{times['median']:8.2f}{times['low']:7.2f}-{times['high']:6.2f}{processor[name]:11.2f}{ratio}"
        )
    write_json(options.json, {"seconds": seconds, "processor_seconds": processor, "ratios": ratios})


if __name__ == "__main__":
    main()
