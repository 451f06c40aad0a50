"""Measures the processor time of a step of each arm of a study, and gives all arms the same processor time.

    python experiments/studies/calibrate.py experiments/studies/screening.yaml --core-seconds 1200

It trains each arm of the first stage twice with one thread: for a few steps, and for some more. The difference of the
two processor times, each over all processes of a training, is the time of the additional steps, because start,
validation and checkpoint cancel. Each round measures all arms in turn, and the median over the rounds counts. Then
`trainer.max_steps` of each arm is written into the file. Measure while nothing else runs: other work changes
processor time too, though less than wall time.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bert_lightning.config.yaml_files import flow_yaml
from bert_lightning.errors import InputError
from bert_lightning.studies.study_file import Study, read_study

_STEPS = "trainer.max_steps"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file with named arms")
    parser.add_argument("--core-seconds", type=float, required=True, help="processor time of each training")
    parser.add_argument("--steps", type=int, nargs=2, default=(20, 80), help="lengths of the two trainings")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each arm")
    parser.add_argument("--dry-run", action="store_true", help="print the numbers of steps, and write nothing")
    arguments = parser.parse_args()
    try:
        study = read_study(arguments.study)
    except InputError as error:
        sys.exit(str(error))
    if not study.varied.arms:
        sys.exit(f"{study.path}: the study has no named arms, whose {_STEPS} could be set")
    seconds = measure(study, arguments.steps, arguments.rounds)
    steps = {arm: 10 * round(arguments.core_seconds / each / 10) for arm, each in seconds.items()}
    first = next(iter(seconds.values()))
    for arm, each in seconds.items():
        print(f"{arm:<12} {each:.4f} s per step  {each / first:5.2f} times the first arm  {steps[arm]:>6} steps")
    if not arguments.dry_run:
        study.path.write_text(with_steps(study.text, steps))


def measure(study: Study, lengths: tuple[int, int], rounds: int) -> dict[str, float]:
    """Return the processor seconds of a step of each arm, the median over the rounds."""
    stage = study.stages[0]
    seconds: dict[str, list[float]] = {arm: [] for arm in study.varied.arms or {}}
    for _ in range(rounds):
        for arm, values in (study.varied.arms or {}).items():
            short, long = (
                processor_seconds(stage.base, {**stage.overrides, **values, _STEPS: steps}) for steps in lengths
            )
            seconds[arm].append((long - short) / (lengths[1] - lengths[0]))
    return {arm: statistics.median(each) for arm, each in seconds.items()}


def processor_seconds(files: tuple[Path, ...], settings: Mapping[str, object]) -> float:
    """Return the processor time of a training with one thread, that of its loader included."""
    settings = {**settings, "data.max_evaluation_samples": 64, "wandb.mode": "disabled"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bert_lightning", "fit", "--config", *map(str, files)]
        command += ["--run-directory", f"{folder}/run", *(f"--{key}={flow_yaml(settings[key])}" for key in settings)]
        with open(f"{folder}/log", "w+") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            # The times of the process and of the children that it has waited for.
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                log.seek(0)
                sys.exit(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def with_steps(text: str, steps: Mapping[str, int]) -> str:
    """Return the text of a study file with another number of steps for each arm.

    >>> print(with_steps("arms:\\n  a: {trainer.max_steps: 9}\\n  b:\\n    trainer.max_steps: 9", {"b": 70}))
    arms:
      a: {trainer.max_steps: 9}
      b:
        trainer.max_steps: 70
    """
    for arm, number in steps.items():
        section = rf"(^  {re.escape(arm)}:(?:(?!\n  \S).)*?{re.escape(_STEPS)}: )\d+"
        text, found = re.subn(section, rf"\g<1>{number}", text, count=1, flags=re.DOTALL | re.MULTILINE)
        if not found:
            sys.exit(f"the arm {arm} does not set {_STEPS}")
    return text


if __name__ == "__main__":
    main()
