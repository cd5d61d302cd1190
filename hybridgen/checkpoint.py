"""Checkpoints that a kill at any moment leaves loadable.

One is written into a temporary folder, every file flushed to the disk, then renamed into place; older ones go only
after that. Weights are safetensors; the rest is tensors and numbers that load with `weights_only=True`: nothing that is
read here can execute code.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridgen.errors import RunError
from hybridgen.files import sha256

FORMAT = 1
MANIFEST = "checkpoint.json"


@dataclass
class Checkpoint:
    """What was saved: weights by name, their average (or None), training state (or None), metadata."""

    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    training: dict[str, Any] | None
    metadata: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    training: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> Path:
    """Write `folder/step-XXXXXXXX`. Raises RunError (full disk, no permission) and leaves what was there before."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        _save_tensors(weights, temporary / "model.safetensors")
        if ema is not None:
            _save_tensors(ema, temporary / "ema.safetensors")
        torch.save(dict(training), temporary / "training.pt")
        files = {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in sorted(temporary.iterdir())}
        manifest = {"format": FORMAT, "step": step, "files": files, "metadata": dict(metadata)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if final.exists():  # the same step saved again (a resumed run): move the old one aside first
            aside = folder / f".{final.name}.old.tmp"
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
            temporary.rename(final)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.rename(final)
        _flush(folder)
    except Exception as error:  # torch and safetensors raise types of their own for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(_why(folder, error)) from error
    return final


def _why(folder: Path, error: BaseException) -> str:
    """torch and safetensors wrap a full disk in errors of their own, so the free space is asked."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    full = getattr(error, "errno", None) == errno.ENOSPC or free < 1 << 20
    cause = "the disk is full" if full else str(error).partition("\n")[0]
    return f"no checkpoint can be written to {folder}: {cause} ({free / 1e6:.1f} MB free); earlier ones are intact"


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """safetensors refuses views and shared memory, so each tensor is saved as a contiguous copy of its own."""
    save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu", training: bool = True) -> Checkpoint:
    """Read a checkpoint; `training=False` leaves the optimisers' state unread. Raises RunError for a damaged one."""
    manifest = _manifest(path)
    if manifest is None:
        raise RunError(f"{path} is no complete checkpoint, or is damaged")
    if manifest["format"] > FORMAT:
        raise RunError(f"{path} was written by a newer hybridgen (format {manifest['format']}); update to read it")
    ema = path / "ema.safetensors"
    return Checkpoint(
        step=manifest["step"],
        weights=load_file(path / "model.safetensors", device=str(device)),
        ema=load_file(ema, device=str(device)) if ema.exists() else None,
        training=torch.load(path / "training.pt", map_location=device, weights_only=True) if training else None,
        metadata=manifest["metadata"],
    )


def _manifest(path: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest if every file is there and is what was written; else None."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            file = path / name
            if file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is complete and undamaged; None when there is none."""
    return next((path for path in reversed(checkpoints(folder)) if _manifest(path) is not None), None)


def forget_after(folder: Path, step: int) -> None:
    """Remove what came after `step` (damaged, or it would not be resumed from): a resumed run writes those steps again."""
    for path in checkpoints(folder):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path, ignore_errors=True)


def prune(folder: Path, keep: int, protect: Path | None = None) -> None:
    """Remove all but the newest `keep` and the protected one."""
    for path in checkpoints(folder)[:-keep]:
        if path != protect:
            shutil.rmtree(path, ignore_errors=True)
