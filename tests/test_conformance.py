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
"""tests/test_shelf.py asks these of every component, in more recipes than the kit's; test_recipes_at_work.py loads recipes."""
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
    marks = [pytest.mark.slow] if check.name in HEAVY else []
    return pytest.param(check, marks=marks, id=str(check))


def mine(check: Check) -> bool:
    named = check.subject in {*MADE, *LARGE} or check.subject.startswith("recipe:")
    return check.name not in ELSEWHERE and not named


PLAIN = [marked(check) for check in every() if mine(check)]


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
