"""Find out which of the processes that train together this one is."""

import os


def is_first_process() -> bool:
    """Whether this process is the one that writes; torchrun, Lightning and SLURM's srun number the others."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
