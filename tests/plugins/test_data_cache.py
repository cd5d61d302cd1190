"""Decoded pictures are kept once, mapped, shared, and never trusted beyond their name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybridgen.data import Arrays
from hybridgen.errors import DataError
from hybridgen_data import images
from hybridgen_data.images import Images

RANDOM = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def _everything_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "CACHED", 1)
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("cats/a.png", "cats/b.png", "dogs/c.png", "dogs/d.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    return folder


def loaded(path: Path, **options: object) -> tuple[Arrays, list[str]]:
    data = Images(path=path, size=6, **options)  # type: ignore[arg-type]
    return data.load()["train"], data.notes


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> str:
        raise AssertionError("a picture was decoded again")

    monkeypatch.setattr(Images, "_read", read)


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "cache" / "pictures").iterdir())


def test_the_second_run_decodes_nothing(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CACHED", 1 << 30)
    plain, _ = loaded(pictures)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(images, "CACHED", 1)
    first, notes = loaded(pictures)
    assert "pictures are kept in" in notes[-1]
    never(monkeypatch)
    second, notes = loaded(pictures)
    assert "pictures are read from" in notes[-1]
    for arrays in (first, second):
        assert torch.equal(arrays.tensor(), plain.tensor())
        assert arrays.label is not None
        assert arrays.label.tolist() == [0, 0, 1, 1]
    assert kept(tmp_path) == [".bytes", ".json"]


@pytest.mark.parametrize("change", ["touched", "added", "another size", "another fit"])
def test_what_changed_is_decoded_anew(change: str, pictures: Path, tmp_path: Path) -> None:
    loaded(pictures)
    options: dict[str, object] = {}
    if change == "touched":
        Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(pictures / "cats" / "a.png")
        os.utime(pictures / "cats" / "a.png", (1, 1))
    elif change == "added":
        Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(pictures / "cats" / "aa.png")
    elif change == "another fit":
        options["fit"] = "pad"
    data = Images(path=pictures, size=5 if change == "another size" else 6, **options)  # type: ignore[arg-type]
    arrays = data.load()["train"]
    assert "pictures are kept in" in data.notes[-1]
    assert kept(tmp_path) == [".bytes", ".bytes", ".json", ".json"]
    if change == "touched":
        assert not arrays.x[0].any()
    if change == "added":
        assert len(arrays) == 5


def test_broken_pictures_are_told_by_the_second_run_too(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = loaded(pictures)
    (pictures / "cats" / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 4 pictures .* can't be read: cats/b.png"):
        loaded(pictures)
    loaded(pictures, broken="skip")
    never(monkeypatch)
    arrays, notes = loaded(pictures, broken="skip")
    assert notes[0].startswith("1 of 4 pictures can't be read and were skipped: cats/b.png")
    assert torch.equal(arrays.tensor(), whole.tensor()[[0, 2, 3]])
    assert arrays.label is not None
    assert arrays.label.tolist() == [0, 1, 1]


def test_an_error_leaves_nothing_behind(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cats" / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError):
        loaded(pictures)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut off", "gone", "no json"])
def test_a_damaged_cache_is_made_again(damage: str, pictures: Path, tmp_path: Path) -> None:
    whole, _ = loaded(pictures)
    expected = whole.tensor().clone()
    (file,) = (tmp_path / "cache" / "pictures").glob("*.bytes")
    if damage == "cut off":
        os.truncate(file, 10)
    elif damage == "gone":
        file.unlink()
    else:
        file.with_suffix(".json").write_text("{")
    arrays, notes = loaded(pictures)
    assert "pictures are kept in" in notes[-1]
    assert torch.equal(arrays.tensor(), expected)


def test_a_full_disk_costs_the_cache_and_not_the_run(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    whole, _ = loaded(pictures)
    monkeypatch.setattr(os, "posix_fallocate", full)
    arrays, notes = loaded(pictures, background=7)
    assert torch.equal(arrays.tensor(), whole.tensor())
    assert "not kept for the next run: No space left on device" in notes[-1]
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    with pytest.raises(DataError, match=r"this machine has 0.0 GiB of memory, and the cache can't take them: No space left"):
        loaded(pictures, background=8)
    assert kept(tmp_path) == [".bytes", ".json"]
