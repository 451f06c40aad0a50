"""Checks that only an accelerator can make. Each is a plain function that measures figures beside their limits.

`tests/gpu` and `gpu_suite.py` run them. The name of a check is its claim. On a processor (`--device cpu`) the checks
that need CUDA are left out. `--quick` leaves out those that compile.

    python experiments/benchmarks/gpu_checks.py --device cuda --json FILE [--quick] [--only NAME ...]
"""

import argparse
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_attention_checks import (
    a_backend_that_cannot_run_says_why,
    every_backend_and_form_agrees_with_float64,
    every_backend_has_the_gradients_of_eager,
    varlen_does_not_drop_dropout,
    varlen_equals_sdpa_on_padded_input,
)
from gpu_setting import Figures, Setting, UnsuitableError
from gpu_training_checks import (
    bf16_mixed_follows_float32,
    compiled_training_follows_eager,
    fully_sharded_training_follows_plain,
    nothing_in_a_step_waits_for_the_device,
    packed_training_follows_padded,
    the_compiled_training_step_is_one_graph,
)
from measuring import write_json

from bert_lightning.runs.trainer import quiet

CHECKS: dict[str, Callable[[Setting], Figures]] = {
    check.__name__: check
    for check in (
        every_backend_and_form_agrees_with_float64,
        every_backend_has_the_gradients_of_eager,
        varlen_equals_sdpa_on_padded_input,
        varlen_does_not_drop_dropout,
        a_backend_that_cannot_run_says_why,
        nothing_in_a_step_waits_for_the_device,
        packed_training_follows_padded,
        bf16_mixed_follows_float32,
        fully_sharded_training_follows_plain,
        compiled_training_follows_eager,
        the_compiled_training_step_is_one_graph,
    )
}


def outcome(name: str, setting: Setting) -> dict[str, Any]:
    """Run a check. Return its result (`ok`, `failed` or `left out`), reason, seconds, and figures beside limits."""
    began = time.perf_counter()
    try:
        figures = CHECKS[name](setting)
        result = "ok" if all(figure.ok for figure in figures.values()) else "failed"
        content: dict[str, Any] = {"result": result, "figures": {k: v._asdict() for k, v in figures.items()}}
    except UnsuitableError as error:
        content = {"result": "left out", "why": str(error)}
    except Exception as error:
        traceback.print_exc()
        content = {"result": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
    return content | {"seconds": round(time.perf_counter() - began, 1)}


def shown(check: dict[str, Any]) -> str:
    """Return one line about a check: the figure nearest to its limit, or the reason why there is none."""
    figures = [f"{each['value']:.2g} of {each['limit']:g}, {name}" for name, each in check.get("figures", {}).items()]
    nearness = [each["value"] / (each["limit"] or 1) for each in check.get("figures", {}).values()]
    detail = check.get("why") or figures[int(np.argmax(nearness))]
    return f"{check['result']:9}{check['seconds']:6.1f} s  {detail}"


def main() -> int:
    """Run the checks, write each result as it ends, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=tuple(CHECKS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    quiet()
    warnings.filterwarnings("ignore")
    setting = Setting(torch.device(options.device), options.quick)
    checks: dict[str, Any] = {}
    for name in options.only:
        checks[name] = outcome(name, setting)
        print(f"{name:46} {shown(checks[name])}", flush=True)
        write_json(options.json, {"checks": checks})
    return int(any(check["result"] == "failed" for check in checks.values()))


if __name__ == "__main__":
    raise SystemExit(main())
