"""Commands as a user gives them, each in its own process."""

import os
import subprocess
import sys
from pathlib import Path


def shell(*arguments, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bert_lightning", *map(str, arguments)]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, **kwargs)
