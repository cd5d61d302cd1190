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

def step():
    kept = [torch.zeros(1 << 20) for _ in range(8)]  # 4 MiB each, all of them freed at the end

step()
keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """80 times 1,024 pages are used; without the call nearly every one is a fault, as a rule, with it a sixteenth at most."""
    made = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(made.stdout) < 80 * 1024 / 8
