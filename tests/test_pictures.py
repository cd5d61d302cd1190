"""Pictures: what is drawn is what the tensors say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybridgen.data import SampleSpec
from hybridgen.errors import DataError
from hybridgen.pictures import PAD, grid, heat_map, picture, read_picture, save_comparison, save_samples, scatter

GREY = SampleSpec("image", (1, 8, 8), 10, activation="tanh")
COLOUR = SampleSpec("image", (3, 60, 50), 10, activation="tanh")
POINTS = SampleSpec("vector", (2,), 10)
ROWS = SampleSpec("vector", (12,), 10)


def test_model_space_becomes_bytes() -> None:
    image = picture(torch.tensor([-1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 4))
    assert image.mode == "L"
    small = np.asarray(image)[0, :: image.width // 4]
    assert small.tolist() == [0, 128, 255, 255]
    assert picture(torch.zeros(3, 60, 50)).size == (50, 60)
    assert picture(torch.zeros(4, 60, 50)).mode == "RGBA"
    assert picture(torch.full((2, 60, 50), torch.nan)).mode == "L"


def test_a_grid_keeps_the_order() -> None:
    cells = [Image.new("L", (10, 6), 20 * i) for i in range(5)]
    sheet = grid(cells, 3)
    assert sheet.size == (3 * 12 + 2, 2 * 8 + 2)
    for i in range(5):
        row, column = divmod(i, 3)
        assert sheet.getpixel((PAD + 12 * column, PAD + 8 * row)) == 20 * i


def test_points_are_where_they_are() -> None:
    image = scatter(torch.tensor([[1.5, 1.5]]), side=400)
    assert image.getpixel((300, 100)) != image.getpixel((100, 300))
    rows = heat_map(torch.tensor([[-1.0, 0.0, 1.0]]))
    assert [rows.getpixel((8 * i, 0)) for i in range(3)] == [(0, 0, 255), (255, 255, 255), (255, 0, 0)]


@pytest.mark.parametrize("spec", [GREY, COLOUR, POINTS, ROWS])
def test_every_kind_of_data_has_a_picture(spec: SampleSpec, tmp_path: Path) -> None:
    x = torch.zeros(5, *spec.shape)
    save_samples(tmp_path / "a" / "s.png", x, spec)
    save_comparison(tmp_path / "r.png", x, x, spec)
    for path in (tmp_path / "a" / "s.png", tmp_path / "r.png"):
        with Image.open(path) as image:
            assert min(image.size) > 8
    save_samples(tmp_path / "s.npy", x, spec)
    assert np.load(tmp_path / "s.npy").shape == x.shape
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_picture_of_the_users_is_brought_to_the_models_size(tmp_path: Path) -> None:
    Image.new("RGB", (33, 20), (255, 255, 255)).save(tmp_path / "a.png")
    for spec in (GREY, COLOUR):
        x = read_picture(tmp_path / "a.png", spec)
        assert tuple(x.shape) == spec.shape
        assert float(x.min()) == float(x.max()) == 1.0
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.png can't be read as a picture"):
        read_picture(tmp_path / "b.png", GREY)
    with pytest.raises(DataError, match="no pictures that a file could hold"):
        read_picture(tmp_path / "a.png", POINTS)


def test_what_is_transparent_becomes_white_as_in_training(tmp_path: Path) -> None:

    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (4, 0, 8, 8))
    picture.save(tmp_path / "half.png")
    colour = SampleSpec(kind="image", shape=(3, 8, 8), count=1, low=0, high=255, levels=256, activation="tanh")
    x = read_picture(tmp_path / "half.png", colour)
    assert x[:, 4, 0].tolist() == [1.0, 1.0, 1.0]
    assert x[:, 4, 7].tolist() == [-1.0, -1.0, 1.0]
