"""The command `doctor`: one screen with all that a bug report needs, and with all that would stop a run."""

import importlib
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bert_lightning.cli.console import Terminal
from bert_lightning.cores import WAITING, usable_cores
from bert_lightning.runs.auto_settings import has_fast_bfloat16
from bert_lightning.runs.directory import VERSIONED, processor_name
from bert_lightning.runs.weights_and_biases import has_api_key
from bert_lightning.version import __version__

_NEEDED = (*VERSIONED, "huggingface_hub", "google_crc32c", "jsonargparse", "rich", "jinja2", "matplotlib", "numpy")
# Malicious releases of Lightning: GHSA-w37p-236h-pfx3.
_MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")


def report() -> bool:
    """Print the table, and return whether nothing is missing."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    faults: list[str] = []
    table.add_row("bert_lightning", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for name in _NEEDED:
        table.add_row(name, _version(name, faults))
    usable = usable_cores()
    limited = "" if usable == os.cpu_count() else f", of which this process may use {usable}"
    table.add_row("processor", f"{processor_name()}, {os.cpu_count()} cores{limited}")
    try:
        import torch
    except ImportError:
        pass
    else:
        table.add_row("threads", str(torch.get_num_threads()))
        table.add_row(
            "waiting threads", ", ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ)
        )
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        table.add_row("GPUs", ", ".join(gpus) or "none: training runs on the processor")
        table.add_row(
            "bf16-mixed",
            "in hardware, so `auto` chooses it" if has_fast_bfloat16() else "not in hardware, so `auto` chooses 32",
        )
    table.add_row("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB")
    table.add_row("W&B", "logged in" if has_api_key() else "not logged in: runs are logged offline")
    for variable in ("BERT_LIGHTNING_DATA", "OMP_NUM_THREADS", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        if variable in os.environ:
            # A path may hold brackets, which rich would read as markup in a plain string.
            table.add_row(variable, Text(os.environ[variable]))
    if "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in os.environ:
        faults.append("unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: it lets checkpoints execute code, so none is loaded")
    terminal = Terminal(highlight=False, soft_wrap=True)
    terminal.print(table)
    for fault in faults:
        terminal.print(Text.assemble(("!", "bold red"), f" {fault}"))
    if not faults:
        terminal.print("Nothing is missing.")
    return not faults


def _version(name: str, faults: list[str]) -> str:
    try:
        version = metadata.version(name)
        importlib.import_module(name)
    except metadata.PackageNotFoundError:
        faults.append(f"{name} is not installed")
        return "missing"
    except Exception as error:
        faults.append(f"{name} {version} does not import: {error}")
    if name == "lightning" and version in _MALICIOUS_LIGHTNING:
        faults.append(f"lightning {version} is a tampered release (GHSA-w37p-236h-pfx3): install 2.6.6 or later")
    return version
