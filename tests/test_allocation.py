import subprocess
import sys

import pytest

from bert_lightning.allocation import ask_for_huge_pages, keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from bert_lightning.allocation import give_back_freed_memory, keep_freed_memory
if sys.argv[1] in ("keep", "undone"):
    assert keep_freed_memory()
if sys.argv[1] == "undone":
    assert give_back_freed_memory()
def num_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# The first blocks may each be a few bytes too short for the next one.
for _ in range(30):
    torch.ones(2**24)
before = num_faults()
for _ in range(10):
    torch.ones(2**24)
print(num_faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is one of glibc")
def test_a_block_that_was_freed_is_used_again_without_asking_the_system():
    faults = {}
    for mode in ("keep", "undone", "default"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    # Without huge pages, ten blocks of 64 MiB are 163,840 pages; with huge pages of 2 MiB, 320.
    assert faults["keep"] < 100 < 320 <= min(faults["default"], faults["undone"])


def test_without_glibc_nothing_is_set(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert not keep_freed_memory()


def test_huge_pages_are_asked_for_unless_the_variable_is_set():
    environment = {}
    ask_for_huge_pages(environment)
    assert environment == {"THP_MEM_ALLOC_ENABLE": "1"}
    environment["THP_MEM_ALLOC_ENABLE"] = "0"
    ask_for_huge_pages(environment)
    assert environment == {"THP_MEM_ALLOC_ENABLE": "0"}
