"""All GPU checks, benchmarks and tests in one command of less than eight minutes.

    python experiments/benchmarks/gpu_suite.py --out DIR

It runs `gpu_checks.py`, then `pretraining_step.py` for BERT base and large, each in its own process, which is ended
when its time is up. A row of the benchmark then keeps the figures from before compiling. The end-to-end tests run if
their packages are installed. The suite needs torch, lightning, torchmetrics, tokenizers, safetensors and
transformers. It prints a table and writes `DIR/results.json`. The exit status is 1 if a check, a test or a row
failed, and 2 without CUDA. `--quick --device cpu` runs a tiny form on a processor.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu_checks import CHECKS, shown
from measuring import write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Seconds for everything, for the checks and for the tests; the rows share the rest.
BUDGET, CHECKS_LIMIT, TESTS_LIMIT = 465.0, 200.0, 45.0
# Seconds before its limit at which a row writes its figures and ends by itself.
GRACE = 15.0
TESTS = "tests/gpu/test_pretraining_on_cuda.py"
NEEDED_BY_TESTS = ("pytest", "datasets", "jsonargparse", "sentencex", "yaml")

ROWS = {
    "base-128": "--size base --batch-size 128 --sequence-length 128 --rounds 5 --steps 10",
    "large-512": "--size large --batch-size 32 --sequence-length 512 --mean-length 256 --rounds 5 --steps 6",
}
# Share of the remaining time that each row gets, in order.
SHARES = {"base-128": 0.45, "large-512": 1.0}
QUICK_ROWS = {
    "base-128": "--size tiny --batch-size 4 --sequence-length 32 --rounds 1 --steps 1",
    "large-512": "--size tiny --batch-size 4 --sequence-length 64 --mean-length 32 --rounds 1 --steps 1",
}
QUICK_CONTENDERS = ("--contenders", "ours", "transformers", "transformers_fused")


def run(command: list[str], log: Path, limit: float) -> str:
    """Run a script with its output in `log`, and return `ended`, `failed` or `out of time`."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("w", encoding="utf-8") as file:
        try:
            ended = subprocess.run(
                [sys.executable, *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, limit),
                env=environment,
                cwd=ROOT,
            )
        except subprocess.TimeoutExpired:
            return "out of time"
    return "failed" if ended.returncode else "ended"


def read(path: Path) -> dict[str, Any]:
    """Return the figures that a script wrote, or an empty dictionary."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def last_line(path: Path) -> str:
    """Return the last line of a script's output."""
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def checks(options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run the checks. Each is `ok`, `failed`, `left out` or, if the time was up before, `not run`."""
    path, log = options.out / "checks.json", options.out / "checks.log"
    command = [str(HERE / "gpu_checks.py"), "--device", options.device, "--json", str(path)]
    ended = run([*command, *(["--quick"] if options.quick else [])], log, limit)
    results = read(path).get("checks", {})
    why = ended if ended == "out of time" else last_line(log)
    return {name: results.get(name, {"result": "not run", "why": why, "seconds": 0.0}) for name in CHECKS}


def row(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run `pretraining_step.py` for one row, and return its result and its figures."""
    path, log = options.out / f"{name}.json", options.out / f"{name}.log"
    arguments = (QUICK_ROWS if options.quick else ROWS)[name].split()
    command = [str(HERE / "pretraining_step.py"), *arguments, "--device", options.device, "--json", str(path)]
    command += ["--precision", "bf16-mixed", "--limit", str(max(1.0, limit - GRACE))]
    ended = run([*command, *(QUICK_CONTENDERS if options.quick else ())], log, limit)
    figures = read(path)
    why = {"why": last_line(log)} if ended == "failed" or not figures else {}
    return {"result": ended, **why, "figures": figures}


def tests(options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run the end-to-end tests, which need pytest and all requirements of the package."""
    absent = [name for name in NEEDED_BY_TESTS if importlib.util.find_spec(name) is None]
    if options.device == "cpu" or absent:
        why = f"not installed: {', '.join(absent)}" if absent else "they are for CUDA"
        return {"result": "left out", "why": why}
    ended = run(["-m", "pytest", "-q", "-m", "gpu", TESTS], options.out / "tests.log", limit)
    return {"result": ended, "why": last_line(options.out / "tests.log")}


def clear(folder: Path) -> None:
    """Create a folder, or remove the results of an earlier run from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("checks", *ROWS, "results"):
        (folder / f"{name}.json").unlink(missing_ok=True)


def print_row(name: str, outcome: dict[str, Any]) -> None:
    """Print the result of a row and the rate of each contender."""
    figures = outcome["figures"]
    missing = f", without {', '.join(figures['missing'])}" if figures.get("missing") else ""
    print(f"\n{name}: {outcome['result']}{missing} {outcome.get('why', '')}".rstrip())
    if not figures:
        return
    settings, ratios = figures["settings"], figures["ratios"]
    lengths = f"mean length {settings['mean_length'] or settings['sequence_length']}"
    print(
        f"  {settings['size']}, {settings['batch_size']} x {settings['sequence_length']}, {lengths} "
        f"(generated, seed 0), {settings['precision']}; {figures['ceiling_share']:.1%} of the best matrix product"
    )
    for contender, each in figures["contenders"].items():
        ratio = f"{ratios[contender]:8.2f}x" if contender in ratios else ""
        low, high = each["spread"]
        rate = each["tokens_per_second"]
        print(f"  {contender:24}{rate:12,.0f} tokens/s  ({low:,.0f}-{high:,.0f}){ratio}")


def main() -> int:
    """Run everything and return the exit status."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="run a tiny form in which nothing is compiled")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_suite.py: this machine has no CUDA device; --device cpu --quick runs a tiny form", file=sys.stderr)
        return 2
    clear(options.out)

    def left() -> float:
        return BUDGET - (time.perf_counter() - began)

    results: dict[str, Any] = {"checks": checks(options, min(CHECKS_LIMIT, left()))}
    for name, check in results["checks"].items():
        print(f"{name:46} {shown(check)}", flush=True)
    results["rows"] = {}
    for name, share in SHARES.items():
        results["rows"][name] = row(name, options, (left() - TESTS_LIMIT) * share)
        print_row(name, results["rows"][name])
    results["tests"] = tests(options, left())
    print(f"\n{TESTS}: {results['tests']['result']}, {results['tests']['why']}")
    wrong = [name for name, check in results["checks"].items() if check["result"] in ("failed", "not run")]
    # A row that ran out of time while it compiled still has its other figures.
    wrong += [name for name, each in results["rows"].items() if each["result"] == "failed" or not each["figures"]]
    wrong += ["tests"] if results["tests"]["result"] in ("failed", "out of time") else []
    results |= {"failed": wrong, "seconds": round(time.perf_counter() - began, 1)}
    write_json(options.out / "results.json", results)
    print(f"\n{results['seconds']:.0f} s; " + (f"failed: {', '.join(wrong)}" if wrong else "nothing failed"))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
