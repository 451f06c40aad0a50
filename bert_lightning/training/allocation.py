"""Settings of the C library's memory allocation that suit training on a processor."""

import ctypes

# Parameters of `mallopt`, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_KEPT = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors, and return whether the C library can do so; glibc can.

    By default glibc gives each large block back to the system, which clears it before it is used again. A training
    step allocates the same blocks as the step before, so this costs up to a tenth of its time. The process then keeps
    its peak of memory until it ends.
    """
    try:
        set_parameter = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_parameter(_MMAP_THRESHOLD, _LARGEST_KEPT) and set_parameter(_TRIM_THRESHOLD, _NEVER))
