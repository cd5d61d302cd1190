"""Memory kept between steps: pages are faulted in once, not in every step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from hybridgen.allocator import keep_freed_memory

def step():
    kept = [torch.zeros(1 << 20) for _ in range(8)]  # 4 MiB each, all of them freed at the end

step()
if sys.argv[1] == "keep":
    keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    made = subprocess.run([sys.executable, "-c", STEPS, word], capture_output=True, text=True, check=True)
    return int(made.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_not_faulted_in_again() -> None:
    assert faults("keep") < faults("leave") / 4  # the kernel may take some back for reasons of its own
