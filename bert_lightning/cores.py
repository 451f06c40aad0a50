"""The cores that this process may use, what they can do, how threads wait, and how much other processes use them.

This module imports nothing heavy, because it has to act before torch is imported.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

# How many times a waiting thread of libgomp checks before it gives up its core. docs/performance.md says what other
# values cost.
SPIN_COUNT = "3000"
# Milliseconds that a waiting thread of Intel's and LLVM's OpenMP keeps its core. Their own default is 200.
BLOCK_TIME = "1"
# A user who sets one of these has chosen how threads wait.
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
# Environment variable with the number of cores that a study gives each training that runs at the same time.
CORES_VARIABLE = "BERT_LIGHTNING_CORES"
_CGROUPS = Path("/sys/fs/cgroup")


def let_waiting_threads_yield(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let OpenMP threads that wait give their core away after some microseconds, and return whether this was set.

    By default they keep it for milliseconds, and no other process can use the core in that time. Two trainings on the
    same cores then become many times slower. OpenMP reads its variables when torch is loaded. So nothing is changed
    after that. Nothing is changed either if a variable of `WAITING` is set.
    """
    if "torch" in sys.modules or any(name in environment for name in WAITING):
        return False
    environment["GOMP_SPINCOUNT"] = SPIN_COUNT
    environment["KMP_BLOCKTIME"] = BLOCK_TIME
    return True


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    A study that runs several trainings at the same time gives each a share of the cores (`CORES_VARIABLE`).
    """
    share = os.environ.get(CORES_VARIABLE, "")
    return min(all_cores(), int(share)) if share.isdecimal() and int(share) > 0 else all_cores()


def all_cores() -> int:
    """Return the number of cores of this process's affinity, within the limit of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_limit()
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


@functools.cache
def multiply_bfloat16(device: str = "cpu") -> bool:
    """Return whether these cores, or with `cuda` the GPU, multiply bfloat16 in hardware.

    Others emulate it, and a product then takes many times as long as in float32.
    """
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cgroup_limit(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the number of cores, perhaps a fraction, that the cgroup and its parents allow; None without a limit.

    Containers limit processes in this way. Version 2 has a quota and a period in `cpu.max`, and version 1 has them in
    two files below `cpu`.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        group = top / path.lstrip("/")
        limits += [_limit_of(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None


class CoreTimes(NamedTuple):
    """Times in seconds since an arbitrary moment. Only the difference of two readings has a meaning.

    Attributes:
        clock: time on the clock.
        used: time for which any process used the cores that this process may use.
        own: time that this process and its finished children used.
    """

    clock: float
    used: float
    own: float


def core_times(statistics: Path = Path("/proc/stat")) -> CoreTimes | None:
    """Read the times of the cores that this process may use; None where the system does not tell them."""
    try:
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [line.split() for line in statistics.read_text().splitlines()]
        ticks = os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal. Processes of lower priority give way and count as idle.
    is_nice = os.nice(0) > 0
    counted = (1, 2, 3, 6, 7, 8) if is_nice else (1, 3, 6, 7, 8)
    used = sum(int(row[column]) for row in rows if row and row[0] in cores for column in counted if column < len(row))
    return CoreTimes(time.monotonic(), used / ticks, sum(os.times()[:4]))


_AT_START = core_times()


def used_by_others(
    before: CoreTimes | None = _AT_START, now: CoreTimes | None = None, *, num_ranks: int = 1
) -> float:
    """Return how many cores' worth of time other programs used on average, since this package was imported.

    With several ranks on these cores, each is taken to have used as much time as this one.
    """
    now = now or core_times()
    if before is None or now is None or now.clock - before.clock < 0.5:
        return 0.0
    return max(0.0, (now.used - before.used - num_ranks * (now.own - before.own)) / (now.clock - before.clock))


def sharing_note(others: float, cores: int, threads: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the sentence about cores that others use; None if there are enough for the threads of this process.

    >>> sharing_note(1.9, cores=2, threads=2, environment={"GOMP_SPINCOUNT": "3000"})
    'other processes use 1.9 of the 2 cores, so this training is slower: let it wait, or give each its share of the \
cores with OMP_NUM_THREADS=1'
    >>> sharing_note(1.9, cores=8, threads=4, environment={})
    """
    # Half a core is what a desktop, or the start of another program, uses for a moment.
    if others < 0.5 or others + threads <= cores + 0.25:
        return None
    share = max(1, round(cores - others) if others < cores else cores // 2)
    share = min(share, max(1, cores // 2))
    text = f"other processes use {min(others, cores):.1f} of the {cores} cores, so this training is slower"
    if threads <= share:
        return f"{text}: let it wait"
    advice = f"give each its share of the cores with OMP_NUM_THREADS={share}"
    if not any(name in environment for name in WAITING):
        advice += f", and set GOMP_SPINCOUNT={SPIN_COUNT} before torch is imported, so that waiting threads yield"
    return f"{text}: let it wait, or {advice}"
