"""Everything that hybridgen ships, under the kit that its plugins' authors use."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridgen.registry import load_registry
from hybridgen.testing import Check, checks

MADE = {
    "data:idx": {"path": "idx"},
    "data:images": {"path": "pictures"},
    "data:arrays": {"path": "set.npz"},
    "data:text": {"path": "lines.txt"},
}
"""What the data that ask for a path are given, below the folder that `files` writes."""
LARGE = {"metric:ms-ssim": {"scales": 2}}
ELSEWHERE = ("compiles", "resumes", "unread", "autocast", "routed")
"""tests/test_shelf.py asks these of every component, in more recipes than the kit's."""
HEAVY = ("shapes",)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    (folder / "idx").mkdir()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "pictures" / f"{i}.png")
    header = bytes([0, 0, 8, 3, *(n for size in (12, 8, 8) for n in (0, 0, 0, size))])
    (folder / "idx" / "train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    np.savez(folder / "set.npz", x=generator.normal(size=(12, 3)).astype(np.float32))
    (folder / "lines.txt").write_text("".join(f"line {i}\n" for i in range(400)), encoding="utf-8")
    return folder


@cache
def every() -> list[Check]:
    """The checks of all shipped plugins, named here so that pytest can list them before any data are written."""
    registry = load_registry()
    shipped = [plugin.name for plugin in registry.plugins if plugin.distribution == "hybridgen"]
    return [check for name in shipped for check in checks(name, registry=registry)]


def marked(check: Check) -> Any:
    marks = [pytest.mark.slow] if check.name in HEAVY or check.subject.startswith("recipe:") else []
    return pytest.param(check, marks=marks, id=str(check))


PLAIN = [marked(check) for check in every() if check.name not in ELSEWHERE and check.subject not in {*MADE, *LARGE}]


@pytest.mark.parametrize("check", PLAIN)
def test_what_is_shipped_holds(check: Check) -> None:
    check()


@pytest.mark.parametrize("subject", [*MADE, *LARGE])
def test_what_needs_options_holds(subject: str, files: Path) -> None:
    kind, name = subject.split(":")
    component = next(c for c in load_registry().components(kind) if c.name == name)
    options = {subject: LARGE.get(subject) or {"path": files / MADE[subject]["path"]}}
    for check in checks(component.plugin, options=options, only=[subject]):
        check()
