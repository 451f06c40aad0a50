"""Processes that train together, and are kept because starting them takes longer than a short training."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Prints go to standard error, so that standard output holds only the answers.
LOOP = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    names = {}
    try:
        exec(json.loads(line), names)
    except SystemExit as end:
        names["answer"] = end.code
    except BaseException:
        traceback.print_exc()
        names["answer"] = "failed"
    print(json.dumps(names.get("answer")), file=answers, flush=True)
"""
COMMAND = """
import os
from bert_lightning.cli import main
os.environ |= {variables!r}
# An earlier training left it there for its own processes.
os.environ.pop("BERT_LIGHTNING_RUN_DIRECTORY", None)
answer = main({arguments!r})
"""
PATIENCE = 300.0


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Ranks:
    """Processes that execute the same Python, with the environment in which torchrun starts them."""

    def __init__(self, number: int) -> None:
        shared = {
            **os.environ,
            "WANDB_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "WORLD_SIZE": str(number),
            "LOCAL_WORLD_SIZE": str(number),
            "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": "tests",
        }
        self.processes: list[subprocess.Popen[Any]] = [
            subprocess.Popen(
                [sys.executable, "-c", LOOP],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(number)
        ]

    def run(self, arguments: Sequence[str], **variables: object) -> list[Any]:
        """Return the exit status of a command on each rank, and keep the variables in its environment."""
        texts = {name: str(value) for name, value in variables.items()}
        return self.execute(COMMAND.format(arguments=[*arguments], variables=texts))

    def execute(self, code: str) -> list[Any]:
        """Execute code on each rank, and return the value that it gives to `answer` there."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(code) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in self.processes]

    def _answer(self, process: subprocess.Popen[Any]) -> Any:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            self.end()
            raise TimeoutError(f"a rank did not answer within {PATIENCE:.0f} s")
        return json.loads(process.stdout.readline() or '"ended"')

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def started(number: int) -> Iterator[Ranks]:
    """Start processes, and end them when the context ends."""
    ranks = Ranks(number)
    try:
        yield ranks
    finally:
        ranks.end()
