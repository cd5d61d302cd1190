"""Data: what is read is what was written, and what can't be read is told in words."""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybridgen.data import SampleSpec, open_data
from hybridgen.errors import DataError
from hybridgen.recipe import Recipe
from hybridgen_data.arrays import ArrayFile
from hybridgen_data.digits import Digits
from hybridgen_data.idx import Idx
from hybridgen_data.images import Images
from hybridgen_data.toy2d import Toy2d

RANDOM = np.random.default_rng(0)


# -- digits, toy2d ---------------------------------------------------------------------------------------------------


def test_digits_are_the_real_ones() -> None:
    spec, arrays = Digits().describe(), Digits().load()["train"]
    assert (spec.shape, spec.count, spec.levels, len(spec.classes)) == ((1, 8, 8), 1797, 17, 10)
    assert arrays.x.dtype == torch.uint8
    assert arrays.label is not None
    assert torch.bincount(arrays.label).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert spec.to_model(arrays.x).min() == -1.0
    assert spec.to_model(arrays.x).max() == 1.0


@pytest.mark.parametrize("shape", ["ring", "grid", "moons", "swiss-roll"])
def test_toy_points_are_as_described(shape: str) -> None:
    data = Toy2d(shape=shape, modes=9, count=3000)  # type: ignore[arg-type]
    arrays, spec = data.load()["train"], data.describe()
    assert arrays.x.shape == (3000, 2)
    assert spec.activation == "identity"
    assert float(arrays.x.abs().max()) < 2.6
    assert torch.equal(arrays.x, data.load()["train"].x)
    if spec.classes:
        assert arrays.label is not None
        assert sorted(set(arrays.label.tolist())) == list(range(len(spec.classes)))


@pytest.mark.parametrize(("shape", "modes"), [("ring", 8), ("grid", 25)])
def test_modes_and_densities_are_exact(shape: str, modes: int) -> None:
    data = Toy2d(shape=shape, modes=modes, std=0.1, count=20000)  # type: ignore[arg-type]
    arrays = data.load()["train"]
    assert arrays.label is not None
    offset = arrays.x - data.modes()[arrays.label]
    torch.testing.assert_close(offset.std(), torch.tensor(0.1), rtol=0.02, atol=0)
    assert int(torch.bincount(arrays.label).min()) > 0.8 * 20000 / modes
    line = torch.linspace(-4, 4, 801)
    mesh = torch.cartesian_prod(line, line)
    total = data.log_density(mesh).exp().sum() * (8 / 800) ** 2
    assert float(total) == pytest.approx(1.0, abs=1e-3)
    assert float(data.log_density(data.modes())[0]) == pytest.approx(-math.log(modes * 2 * math.pi * 0.01), abs=1e-3)


def test_a_grid_wants_a_square_number() -> None:
    with pytest.raises(ValueError, match="write 9 or 25"):
        Toy2d(shape="grid", modes=10)


# -- idx -----------------------------------------------------------------------------------------------------------------


def idx_file(path: Path, values: np.ndarray, *, cut: int = 0) -> None:
    content = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()
    content = content[: len(content) - cut]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for split, count in (("train", 20), ("t10k", 6)):
        ending = ".gz" if split == "train" else ""
        idx_file(tmp_path / f"{split}-images-idx3-ubyte{ending}", RANDOM.integers(0, 256, (count, 5, 4)))
        idx_file(tmp_path / f"{split}-labels-idx1-ubyte{ending}", np.arange(count) % 3)
    return tmp_path


def test_idx_files_gzipped_or_not(mnist: Path) -> None:
    data = Idx(path=mnist)
    spec, splits = data.describe(), data.load()
    assert (spec.shape, spec.count, spec.levels, spec.classes) == ((1, 5, 4), 20, 256, ("0", "1", "2"))
    assert splits["train"].x.shape == (20, 1, 5, 4)
    assert splits["validation"].x.shape == (6, 1, 5, 4)
    raw = gzip.decompress((mnist / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert splits["train"].x.flatten().tolist() == list(raw)
    assert splits["train"].label is not None
    assert splits["train"].label.tolist() == [i % 3 for i in range(20)]
    assert set(Idx(path=mnist, held_out="split").load()) == {"train"}


def test_idx_faults_are_told(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="holds no training pictures"):
        Idx(path=empty).describe()
    with pytest.raises(DataError, match="is no folder"):
        Idx(path=empty / "nowhere").describe()
    train = mnist / "train-images-idx3-ubyte.gz"
    values = RANDOM.integers(0, 256, (20, 5, 4))
    idx_file(train, values, cut=7)
    with pytest.raises(DataError, match="truncated: its header announces 20 x 5 x 4 values, 400 bytes, it holds 393"):
        Idx(path=mnist).load()
    train.write_bytes(gzip.compress(b"x" * 500)[:-9])
    with pytest.raises(DataError, match="is no IDX file: it starts with 78 78 78 78"):
        Idx(path=mnist).describe()
    idx_file(train, values)
    train.write_bytes(train.read_bytes()[:-20])
    with pytest.raises(DataError, match="truncated: the gzip stream ends early"):
        Idx(path=mnist).load()
    idx_file(train, values[:19])
    with pytest.raises(DataError, match=r"holds 19 pictures, but train-labels-idx1-ubyte\.gz 20 labels"):
        Idx(path=mnist).load()
    idx_file(mnist / "other-train-images-idx3-ubyte", values)
    with pytest.raises(DataError, match=r"several sets.*data\.prefix"):
        Idx(path=mnist).load()
    assert len(Idx(path=mnist, prefix="other").load()["train"]) == 20


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "shape", "kind"),
    [
        (np.zeros((6, 5), np.float64), (5,), "vector"),
        (np.zeros((6, 4, 5), np.uint8), (1, 4, 5), "image"),
        (np.zeros((6, 3, 4, 5), np.uint8), (3, 4, 5), "image"),
        (np.zeros((6, 4, 5, 3), np.uint8), (3, 4, 5), "image"),
        (np.zeros((6, 4, 5, 3), np.float32), (3, 4, 5), "image"),
        (np.zeros((6, 4, 5), bool), (1, 4, 5), "image"),
    ],
)
def test_arrays_of_every_layout(values: np.ndarray, shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, values)
    data = ArrayFile(path=path)
    assert data.describe().shape == shape
    assert data.describe().kind == kind
    assert tuple(data.load()["train"].x.shape) == (6, *shape)


def test_channels_last_are_brought_forward(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    np.save(tmp_path / "x.npy", values)
    x = ArrayFile(path=tmp_path / "x.npy").load()["train"].x
    assert np.array_equal(x.numpy(), values.transpose(0, 3, 1, 2))


def test_an_archive_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=np.zeros((4, 2)), y=np.array([0, 2, 1, 2]))
    data = ArrayFile(path=path)
    assert data.describe().classes == ("0", "1", "2")
    assert data.load()["train"].label.tolist() == [0, 2, 1, 2]  # type: ignore[union-attr]
    np.savez(path, one=np.zeros((4, 2)), two=np.zeros((4, 2)))
    with pytest.raises(DataError, match=r"holds one, two; say which are the examples with data\.key"):
        ArrayFile(path=path).describe()
    assert ArrayFile(path=path, key="two").describe().shape == (2,)
    with pytest.raises(DataError, match="holds no array 'three'"):
        ArrayFile(path=path, key="three").describe()


def test_array_faults_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(DataError, match="there is no file"):
        ArrayFile(path=path).describe()
    np.save(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        ArrayFile(path=path).describe()
    np.save(path, np.zeros((6, 4, 4), np.float32) + 200)
    with pytest.raises(DataError, match="values from 200 to 200, expected -1 to 1; say what they run from and to"):
        ArrayFile(path=path).load()
    assert ArrayFile(path=path, low=0, high=255).describe().high == 255
    np.save(path, np.zeros((6, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="can't be read"):
        ArrayFile(path=path).load()
    np.save(path, np.zeros(5))
    with pytest.raises(DataError, match="expected an example a row"):
        ArrayFile(path=path).describe()
    with pytest.raises(ValueError, match="low and high belong together"):
        ArrayFile(path=path, low=0)


def test_a_nan_in_an_array_is_found_and_numbered(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    values = np.zeros((20, 3), np.float32)
    values[13, 1] = np.nan
    np.save(tmp_path / "x.npy", values)
    options = recipe('[data]\nuse = "digits"\nbatch_size = 4\n[decoder]\nuse = "mlp"\n[loss.kl]\nuse = "kl"\n').data
    with pytest.raises(DataError, match="1 train examples hold NaN or infinite values; the first is number 13"):
        open_data(ArrayFile(path=tmp_path / "x.npy"), options)


# -- images --------------------------------------------------------------------------------------------------------------


def picture(
    path: Path, size: tuple[int, int] = (20, 10), mode: str = "RGB", colour: object = (200, 30, 30), **save: object
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)  # type: ignore[arg-type]


def test_pictures_of_any_size_format_and_mode(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", (7, 31))
    picture(tmp_path / "a.jpg", (64, 20))
    picture(tmp_path / "c.gif", (5, 5), "P", 3)
    picture(tmp_path / "d.png", (30, 30), "L", 77)
    picture(tmp_path / "e.webp", (3, 3))
    (tmp_path / ".hidden.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("not a picture either")
    data = Images(path=tmp_path, size=(6, 9))
    spec = data.describe()
    assert (spec.shape, spec.count, spec.classes) == ((3, 6, 9), 5, ())
    x = data.load()["train"].x
    assert x.shape == (5, 3, 6, 9)
    assert x.dtype == torch.uint8
    assert [int(v) for v in x[3, :, 0, 0]] == [77, 77, 77]  # sorted by name: a.jpg, b.png, c.gif, d.png, e.webp


def test_grey_pictures_stay_grey_and_can_be_asked_for(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", mode="L", colour=50)
    picture(tmp_path / "b.png", mode="LA", colour=(50, 255))
    assert Images(path=tmp_path, size=4).describe().shape == (1, 4, 4)
    assert Images(path=tmp_path, size=4, colour="rgb").describe().shape == (3, 4, 4)
    picture(tmp_path / "c.png")
    assert Images(path=tmp_path, size=4).describe().shape == (3, 4, 4)
    assert Images(path=tmp_path, size=4, colour="grey").load()["train"].x.shape == (3, 1, 4, 4)


def test_crop_pad_and_stretch(tmp_path: Path) -> None:
    image = Image.new("L", (30, 10), 0)  # three squares: black, grey, white
    image.paste(128, (10, 0, 20, 10))
    image.paste(255, (20, 0, 30, 10))
    image.save(tmp_path / "a.png")
    crop, pad, stretch = (
        Images(path=tmp_path, size=10, fit=fit, background=7).load()["train"].x[0, 0]  # type: ignore[arg-type]
        for fit in ("crop", "pad", "stretch")
    )
    assert crop[5, 5] == 128
    assert crop[5, 1] == 128  # the middle fills the frame
    assert pad[0, 5] == 7  # bars above and below
    assert pad[5, 0] < 30
    assert pad[5, 9] > 225
    assert stretch[0, 0] < 30
    assert stretch[9, 9] > 225


def test_orientation_transparency_and_sixteen_bits(tmp_path: Path) -> None:
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (0, 0, 4, 4))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: to be shown rotated by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    turned = Images(path=tmp_path, size=(8, 4)).load()["train"].x[0, 0]
    assert turned[0].min() > 240
    assert turned[-1].max() < 15
    picture(tmp_path / "a.png", (4, 4), "RGBA", (10, 20, 30, 0))
    assert Images(path=tmp_path, size=4, background=99).load()["train"].x.unique().tolist() == [99]
    Image.fromarray(np.full((4, 4), 0x8080, np.uint16)).save(tmp_path / "a.png")
    assert Images(path=tmp_path, size=4).load()["train"].x.unique().tolist() == [128]


def test_class_folders_are_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/deep/3.png"):
        picture(tmp_path / name)
    data = Images(path=tmp_path, size=4)
    assert data.describe().classes == ("cat", "dog")
    assert data.load()["train"].label.tolist() == [0, 0, 1]  # type: ignore[union-attr]
    assert Images(path=tmp_path, size=4, labels="none").describe().classes == ()
    picture(tmp_path / "loose.png")
    assert Images(path=tmp_path, size=4).describe().classes == ()
    with pytest.raises(DataError, match=r"loose\.png lies in no sub-folder"):
        Images(path=tmp_path, size=4, labels="folders").describe()


def test_broken_pictures_are_counted_named_and_skippable(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / f"{i}.png", (50, 50))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    (tmp_path / "4.png").write_bytes(b"no picture at all")
    with pytest.raises(DataError, match=r"2 of 6 pictures .* can't be read: 2\.png .*4\.png .*data\.broken = \"skip\""):
        Images(path=tmp_path, size=4).load()
    data = Images(path=tmp_path, size=4, broken="skip")
    assert len(data.load()["train"]) == 4
    assert "2 of 6 pictures can't be read and were skipped: 2.png" in data.notes[0]
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 6 pictures"):
        data.load()


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        Images(path=tmp_path).describe()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"it holds files that end in \.txt"):
        Images(path=tmp_path).describe()
    with pytest.raises(DataError, match="is no folder"):
        Images(path=tmp_path / "nowhere").describe()


@pytest.mark.parametrize("data", [Digits(), Toy2d(count=50), Toy2d(shape="swiss-roll", count=50)])
def test_descriptions_survive_json(data: Digits | Toy2d) -> None:
    spec = data.describe()
    assert SampleSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("moved", [False, True])
def test_digits_are_scikit_learns(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read without importing it, and through it where its file isn't where it was."""
    from sklearn.datasets import load_digits

    from hybridgen_data import digits

    if moved:
        monkeypatch.setattr(digits, "find_spec", lambda _: None)
    bunch, arrays = load_digits(), digits.Digits().load()["train"]
    assert torch.equal(arrays.x[:, 0].double(), torch.from_numpy(bunch.images))
    assert torch.equal(arrays.label, torch.from_numpy(bunch.target).long())
    assert arrays.x.dtype == torch.uint8


def test_digits_are_there_before_scikit_learn() -> None:
    code = "import sys; from hybridgen_data.digits import Digits; Digits().load(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
