"""Data with known factors: pictures are what their factors say, and archives bring theirs along."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hybridgen.data import SampleSpec, batches_in_order
from hybridgen.errors import DataError
from hybridgen_data.arrays import ArrayFile
from hybridgen_data.sprites import Sprites


def test_each_combination_of_the_factors_is_one_picture() -> None:
    data = Sprites(scales=2, positions=3)
    spec, arrays = data.describe(), data.load()["train"]
    assert (spec.shape, spec.count, spec.levels, spec.activation) == ((1, 16, 16), 54, 256, "tanh")
    assert spec.classes == ("square", "disc", "triangle")
    assert spec.factors == ("shape", "scale", "x", "y")
    assert arrays.factors is not None
    assert arrays.label is not None
    assert arrays.x.dtype == torch.uint8
    assert arrays.x.shape == (54, 1, 16, 16)
    assert len(arrays.factors.unique(dim=0)) == len(arrays.x.flatten(1).unique(dim=0)) == 54
    assert arrays.factors.amax(0).tolist() == [2, 1, 2, 2]
    assert torch.equal(arrays.label, arrays.factors[:, 0])
    assert SampleSpec.from_dict(spec.to_dict()) == spec
    assert Sprites().describe().count == len(Sprites().load()["train"]) == 3840


@pytest.mark.parametrize("size", [16, 32])
def test_position_and_size_are_what_the_factors_say(size: int) -> None:
    arrays = Sprites(size=size, scales=3, positions=4).load()["train"]
    assert arrays.factors is not None
    x = arrays.x[:, 0].double() / 255
    mass = x.sum((1, 2))
    pixel = torch.arange(size).double() + 0.5
    across, down = (x.sum(1) * pixel).sum(1) / mass, (x.sum(2) * pixel).sum(1) / mass
    place = size * (0.29 + 0.42 * torch.arange(4) / 3)
    square = arrays.factors[:, 0] != 2
    torch.testing.assert_close(across, place[arrays.factors[:, 2]].double(), atol=0.08, rtol=0)
    torch.testing.assert_close(down[square], place[arrays.factors[:, 3]].double()[square], atol=0.08, rtol=0)
    assert (down - place[arrays.factors[:, 3]]).abs().max() < 0.3  # a blurred tip moves a triangle's middle a little
    radius = size * torch.tensor([0.09, 0.125, 0.16])
    for scale in range(3):
        of_shape = [float(mass[(arrays.factors[:, 0] == i) & (arrays.factors[:, 1] == scale)].mean()) for i in range(3)]
        assert of_shape == pytest.approx([math.pi * float(radius[scale]) ** 2] * 3, abs=0.5)
        assert max(of_shape) < 1.03 * min(of_shape)  # brightness doesn't give the shape away


def test_shapes_are_told_by_their_outline() -> None:
    """In the middle of a large picture: how wide each is at its middle and near its lower edge, in the disc's radii."""
    data = Sprites(size=256, scales=1, positions=1)
    square, disc, triangle = (data.load()["train"].x[:, 0] > 127).unbind(0)
    radius = 256 * 0.125

    def width(shape: torch.Tensor, below: float) -> float:
        return float(shape[int(128 + below * radius)].sum()) / radius

    half = math.sqrt(math.pi) / 2
    assert width(square, 0.0) == pytest.approx(2 * half, abs=0.05)
    assert width(square, 0.85) == pytest.approx(2 * half, abs=0.05)
    assert width(disc, 0.0) == pytest.approx(2, abs=0.05)
    assert width(disc, 0.6) == pytest.approx(1.6, abs=0.06)
    inner = math.sqrt(math.pi / (3 * math.sqrt(3)))
    assert width(triangle, inner - 0.05) == pytest.approx(2 * math.sqrt(3) * inner, abs=0.1)
    assert width(triangle, -inner) == pytest.approx(2 * inner / math.sqrt(3), abs=0.06)  # half as high as the tip
    for shape in (square, disc, triangle):
        assert torch.equal(shape, shape.flip(-1))


def test_edges_are_smooth_and_nothing_is_cut_off() -> None:
    x = Sprites().load()["train"].x[:, 0]
    assert ((x > 0) & (x < 255)).flatten(1).any(1).float().mean() > 0.9
    assert int(x.flatten(1).amax(1).min()) == 255
    for edge in (x[:, -1], x[:, :, 0], x[:, :, -1], x[:, 0]):
        assert int(edge.max()) < 128


def test_a_number_of_them_is_drawn_evenly_and_again_the_same() -> None:
    drawn = Sprites(count=6000, scales=2, positions=2, seed=3).load()["train"]
    assert drawn.factors is not None
    counts = torch.unique(drawn.factors, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 180
    assert torch.equal(drawn.x, Sprites(count=6000, scales=2, positions=2, seed=3).load()["train"].x)
    assert not torch.equal(drawn.x, Sprites(count=6000, scales=2, positions=2, seed=4).load()["train"].x)
    assert torch.equal(Sprites(scales=2, positions=2).draw(drawn.factors), drawn.x)


def test_factors_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    x, factors = np.zeros((6, 5, 5), np.uint8), np.arange(12).reshape(6, 2)
    for name in ("factors", "latents_classes"):
        np.savez(path, x=x, **{name: factors})
        data = ArrayFile(path=path)
        assert data.describe().factors == ("0", "1")
        batches = list(batches_in_order(data.load()["train"], data.describe(), 4, torch.device("cpu")))
        assert torch.equal(torch.cat([batch["factors"] for batch in batches]), torch.from_numpy(factors))
    np.savez(path, imgs=x, other=factors.astype(np.uint8), metadata=np.zeros(3))  # as dSprites calls its pictures
    assert ArrayFile(path=path, factors="other").load()["train"].factors.tolist() == factors.tolist()  # type: ignore[union-attr]
    assert ArrayFile(path=path).describe().factors == ()
    assert ArrayFile(path=path).load()["train"].factors is None


def test_factors_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=np.zeros((6, 2)), factors=np.zeros((6, 2)))
    with pytest.raises(DataError, match=r"factors are whole numbers.*found float64 of shape"):
        ArrayFile(path=path).describe()
    np.savez(path, x=np.zeros((6, 2)), factors=np.zeros(6, int))
    with pytest.raises(DataError, match="a column a factor, found int64 of shape"):
        ArrayFile(path=path).describe()
    with pytest.raises(DataError, match="holds no array 'none'; it holds: x, factors"):
        ArrayFile(path=path, factors="none").describe()
    np.save(tmp_path / "x.npy", np.zeros((6, 2)))
    with pytest.raises(DataError, match=r"factors are an array of their own in an \.npz"):
        ArrayFile(path=tmp_path / "x.npy", factors="factors").describe()
