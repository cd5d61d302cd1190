"""The environment of a run: what would be needed to get its numbers again. No environment variables are recorded."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hybridgen._version import __version__
from hybridgen.registry import Plugin, Registry

PACKAGES = ("torch", "numpy", "pluggy", "einops", "torchmetrics", "pydantic", "safetensors", "pillow", "scikit-learn")


def environment(*, registry: Registry, seed: int, device: str) -> dict[str, Any]:
    """Versions, plugins, machine, device, seed, command and git commit, as JSON holds them."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "hybridgen": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "plugins": [_plugin(p) for p in registry.plugins],
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cuda": torch.version.cuda,
        "seed": seed,
        "command": sys.argv,
        "git": _git(),
    }


def _plugin(plugin: Plugin) -> dict[str, str]:
    found = {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "state": plugin.state}
    return found | ({"file": str(plugin.file.path), "sha256": plugin.file.sha256} if plugin.file else {})


def cpu_name() -> str:
    """The processor's model, as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Commit of the working directory, and whether it has uncommitted changes; None outside a checkout."""

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
