"""The role of this process among those that train together, and the program that started it."""

import os


def is_first_process() -> bool:
    """Return whether this is the first process. Only the first one writes and reports.

    torchrun, Lightning and SLURM's srun number the processes.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def is_killed_after_hang_up() -> bool:
    """Return whether torchrun ends this process after the terminal closes.

    torchrun passes SIGHUP on, and kills the process 30 s later. It installs its own handlers, also under `nohup`.
    TORCHELASTIC_SIGNALS_TO_HANDLE is its list of signals (torch/distributed/elastic/multiprocessing/api.py).
    """
    handled = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT")
    return "TORCHELASTIC_RUN_ID" in os.environ and "SIGHUP" in handled.split(",")
