"""Memory kept between steps: pages are faulted in once, not in every step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from hybridgen.allocator import keep_freed_memory

def step(number):  # blocks above all that were freed before, which glibc by itself asks the system for: 4 MiB and more
    kept = [torch.zeros((1 << 20) + (number << 14)) for _ in range(8)]

step(0)
keep_freed_memory()
step(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(2, 12):
    step(number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """80 times 1,024 pages are used; without the call every one is a fault, with it a few."""
    made = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(made.stdout) < 80 * 1024 / 8
