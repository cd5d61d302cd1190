"""Memory of large tensors kept between steps, where the C library would hand it back and ask for it anew in every one."""

from __future__ import annotations

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names of the two settings (malloc.h)."""

LARGEST = 32 << 20
"""Bytes of the largest block that glibc's heap takes; what is larger stays with the system."""


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: a step frees as much as it allocates, and pages that come fresh from the system are
    faulted in one by one (0.3 s of the 2.5 that a step of WGAN-GP takes on one core). Nothing happens under another C library.

    It holds for the whole process and can't be read to be put back, so it is for commands that train, not for `import`.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(MMAP_THRESHOLD, LARGEST)
