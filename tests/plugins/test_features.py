"""Feature networks: the same embedding for a sample whatever its batch mates, weights that are what they say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError, PluginError
from hybridgen.registry import load_registry
from hybridgen_data.digits import Digits
from hybridgen_features import cache, classifier, inception, timm_network
from hybridgen_features.auto import Auto
from hybridgen_features.classifier import Classifier
from hybridgen_features.inception import FILE, Inception, Mixed, Trunk, resized
from hybridgen_features.pictures import PIECE, to_bytes
from hybridgen_features.raw import Raw


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def toy(shape: tuple[int, ...] = (1, 8, 8), count: int = 60, classes: int = 3) -> tuple[Arrays, Arrays, SampleSpec]:
    """Classes that differ in brightness, with noise, as training and held-out examples."""
    label = torch.arange(count) % classes
    x = 0.3 * noise(count, *shape) + (label / classes - 0.5).reshape(-1, *([1] * len(shape)))
    spec = SampleSpec(
        "image" if len(shape) == 3 else "vector", shape, count, classes=tuple("abcdefghij"[:classes]), activation="tanh"
    )
    return Arrays(x, label), Arrays(x.flip(0), label.flip(0)), spec


def prepared(network: Classifier, *, data: str = "toy", shape: tuple[int, ...] = (1, 8, 8)) -> list[str]:
    """What it told while it was made ready on the toy data."""
    told: list[str] = []
    network.prepare(*toy(shape), data, told.append)
    return told


def no_training(*_: Any) -> None:
    raise AssertionError("trained, though the weights were there")


# -- all of them -------------------------------------------------------------------------------------------------------


def made(name: str, weights: Path) -> Any:
    if name == "inception":
        return Inception((1, 8, 8), "tanh", weights=weights)
    if name == "raw":
        return Raw((1, 8, 8))
    network = Classifier((1, 8, 8), 3, steps=3) if name == "classifier" else Auto((1, 8, 8), 3)
    if isinstance(network, Auto):
        assert isinstance(network.chosen, Classifier)
        network.chosen.steps = 3
    network.prepare(*toy(), "toy", lambda text: None)
    return network


@pytest.mark.parametrize("name", ["raw", "classifier", "auto", "inception"])
def test_an_embedding_does_not_depend_on_batch_mates_or_mode_and_the_protocol_is_json(name: str, random_weights: Path) -> None:
    network = made(name, random_weights)
    assert type(network) is next(c for c in load_registry().components("features") if c.name == name).load()
    network.train()  # as a careless caller might: nothing of it may reach the numbers
    assert not any(module.training for module in network.modules() if not isinstance(module, (Raw, Auto)))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x = noise(3, 1, 8, 8)
    together, logits = network(x)
    alone, own_logits = network(x[1:2])
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-5)
    assert together.dtype == torch.float32
    described = json.loads(json.dumps(network.describe()))
    assert together.shape == (3, described["dim"])
    assert network.classes == described.get("classes", 0)
    if logits is None:
        assert network.classes == 0
    else:
        assert logits.shape == (3, network.classes)
        torch.testing.assert_close(own_logits, logits[1:2], rtol=1e-4, atol=1e-4)


def test_raw_features_are_the_values_in_order() -> None:
    x = noise(2, 3, 2, 2)
    embedding, logits = Raw((3, 2, 2))(x)
    assert torch.equal(embedding, x.reshape(2, 12))
    assert logits is None


def test_auto_trains_where_there_are_labels_and_compares_few_values_themselves() -> None:
    assert isinstance(Auto((3, 32, 32), 10).chosen, Classifier)
    network = Auto((2,))
    network.prepare(*toy((2,)), "toy", no_training)
    assert network.describe() == {"name": "raw", "dim": 2}
    assert isinstance(Auto((16, 16), 1).chosen, Raw)  # one class tells nothing apart
    with pytest.raises(ValueError, match=r"without labels .* \(1, 28, 28\) .* write \[features.NAME\] .* \"timm\""):
        Auto((1, 28, 28))


# -- the classifier ----------------------------------------------------------------------------------------------------


def test_digits_are_classified_and_the_embedding_is_alive() -> None:
    arrays, spec = Digits().load()["train"], Digits().describe()
    order = torch.randperm(len(arrays), generator=torch.Generator().manual_seed(1))
    train, held_out = arrays.subset(order[180:]), arrays.subset(order[:180])
    network, told = Classifier((1, 8, 8), 10, steps=300), []
    network.prepare(train, held_out, spec, "digits", told.append)
    described = network.describe()
    assert described["accuracy"] >= 0.95
    embedding, logits = network(spec.to_model(held_out.x))
    assert held_out.label is not None
    accuracy = (logits.argmax(1) == held_out.label).float().mean()
    assert described["accuracy"] == pytest.approx(float(accuracy), abs=1e-4)
    assert any(f"{described['accuracy']:.1%} of 180 held-out examples of 'digits'" in line for line in told)
    spread = torch.linalg.eigvalsh(torch.cov(embedding.double().T))
    assert spread[0] > 1e-5 * spread[-1]  # no dimension is dead, none a copy of others


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 9, 33), (4, 64, 20), (2,), (30, 12)])
def test_samples_of_any_shape_are_trained_on(shape: tuple[int, ...]) -> None:
    network = Classifier(shape, 3, dim=5, steps=2)
    prepared(network, shape=shape)
    embedding, logits = network(noise(4, *shape))
    assert (embedding.shape, logits.shape) == ((4, 5), (4, 3))
    assert embedding.isfinite().all()


def test_contrast_reaches_the_embedding() -> None:
    network = Classifier((1, 8, 8), 3, steps=30)
    prepared(network)
    x = noise(50, 1, 8, 8)
    full, half = network(x)[0], network(0.5 * x)[0]
    assert (full - half).norm(dim=1).mean() > 0.1 * full.std(0).norm()


def test_training_is_a_function_of_the_data_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        network = Classifier((1, 8, 8), 3, steps=5)
        trained = toy()
        classifier.fit(network.network, trained[0], trained[2], 5, "toy", lambda text: None)
        assert torch.equal(torch.get_rng_state(), state)
        states.append(cache.digest(network.network.state_dict()))
    assert states[0] == states[1]
    torch.set_rng_state(before)


def test_the_second_run_reads_what_the_first_kept(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Classifier((1, 8, 8), 3, steps=5)
    told = prepared(first, data="My Data")
    (kept,) = cached.iterdir()
    train = toy()[0]
    assert train.label is not None
    content = cache.digest({"x": train.x, "label": train.label})[:12]
    assert kept.name.startswith(f"classifier-my-data-60x1x8x8-3classes-{content}-")
    assert any(str(kept) in line for line in told)
    monkeypatch.setattr(classifier, "fit", no_training)
    second = Classifier((1, 8, 8), 3, steps=5)
    assert prepared(second, data="My Data") == []
    assert second.describe() == first.describe()
    x = noise(4, 1, 8, 8)
    assert torch.equal(second(x)[0], first(x)[0])
    assert prepared(second) == []  # ready is ready


def test_other_data_labels_ranges_or_options_are_kept_apart(cached: Path) -> None:
    train, held_out, spec = toy()
    assert train.label is not None
    for arrays, own, steps in (
        (train, spec, 2),
        (Arrays(train.x + 1e-3, train.label), spec, 2),
        (Arrays(train.x, train.label.flip(0)), spec, 2),
        (train, SampleSpec(**{**spec.to_dict(), "high": 2.0}), 2),
        (train, spec, 3),
    ):
        Classifier((1, 8, 8), 3, steps=steps).prepare(arrays, held_out, own, "toy", lambda text: None)
    Classifier((1, 8, 8), 3, steps=2, dim=8).prepare(train, held_out, spec, "toy", lambda text: None)
    assert len(list(cached.iterdir())) == 6


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def foreign(path: Path) -> None:
    save_file({"head.weight": torch.ones(2, 2)}, path)


def other_training(path: Path) -> None:
    state, about = classifier.read(path)
    save_file(state, path, metadata={classifier.KEY: json.dumps(about | {"steps": 4})})


def other_network(path: Path) -> None:
    state, about = classifier.read(path)
    state["head.bias"] = torch.zeros(9)
    save_file(state, path, metadata={classifier.KEY: json.dumps(about | {"weights": cache.digest(state)[:16]})})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (flipped, "is damaged"),
        (truncated, "can't be read as safetensors"),
        (foreign, "holds no classifier that hybridgen trained"),
        (other_training, "was trained otherwise (its steps)"),
        (other_network, "no weights of a classifier of 3 classes"),
    ],
)
def test_a_cached_file_that_is_not_what_it_should_be_is_told_and_trained_anew(
    spoil: Callable[[Path], None], said: str, cached: Path
) -> None:
    first = Classifier((1, 8, 8), 3, steps=5)
    prepared(first)
    (kept,) = cached.iterdir()
    good = kept.read_bytes()
    spoil(kept)
    second = Classifier((1, 8, 8), 3, steps=5)
    told = prepared(second)
    assert said in told[0]
    assert told[0].endswith("training the classifier anew")
    assert second.describe() == first.describe()
    assert kept.read_bytes() == good
    assert list(cached.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_is_told_and_goes_on(cached: Path) -> None:
    cached.parent.mkdir()
    cached.write_text("a file where the folder should be")
    network = Classifier((1, 8, 8), 3, steps=5)
    told = prepared(network)
    assert any("is not kept for the next run" in line and "HYBRIDGEN_CACHE" in line for line in told)
    assert network.describe()["weights"]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("HYBRIDGEN_CACHE", "/h")
    assert cache.folder() == Path("/h/features")
    monkeypatch.delenv("HYBRIDGEN_CACHE")
    assert cache.folder() == Path("/x/hybridgen/features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache/hybridgen/features"


def test_weights_given_as_a_file_need_no_labels(cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Classifier((1, 8, 8), 3, steps=5)
    prepared(first)
    (kept,) = cached.iterdir()
    monkeypatch.setattr(classifier, "fit", no_training)
    second = Classifier((1, 8, 8), weights=kept)
    second.prepare(Arrays(noise(5, 1, 8, 8)), None, SampleSpec("image", (1, 8, 8), 5), "others", no_training)
    assert second.classes == 3
    assert second.describe() == first.describe()
    with pytest.raises(ValueError, match=r"for samples of the shape \(1, 8, 8\), these have \(1, 9, 9\)"):
        Classifier((1, 9, 9), weights=kept)
    with pytest.raises(ValueError, match=r"has 64 numbers; write `dim = 64`"):
        Classifier((1, 8, 8), weights=kept, dim=32)
    with pytest.raises(ValueError, match=r"there is no file .*none.safetensors"):
        Classifier((1, 8, 8), weights=tmp_path / "none.safetensors")
    foreign(kept)
    with pytest.raises(ValueError, match=r"holds no classifier that hybridgen trained"):
        Classifier((1, 8, 8), weights=kept)


def test_without_labels_it_says_what_to_write() -> None:
    with pytest.raises(ValueError, match=r'no labels .* `weights = "FILE.safetensors"`.*`use = "inception"`'):
        Classifier((1, 8, 8))
    with pytest.raises(ValueError, match=r'one class.*write `use = "raw"`'):
        Classifier((1, 8, 8), 1)
    network = Classifier((1, 8, 8), 3)
    with pytest.raises(DataError, match=r"needs labelled training examples; there are no labels"):
        network.prepare(Arrays(noise(5, 1, 8, 8)), None, SampleSpec("image", (1, 8, 8), 5), "toy", no_training)


def test_a_classifier_that_learnt_nothing_says_so() -> None:
    x, label = torch.zeros(40, 2), torch.arange(40) % 2
    told: list[str] = []
    arrays = Arrays(x, label)
    Classifier((2,), 2, steps=3).prepare(
        arrays, arrays, SampleSpec("vector", (2,), 40, classes=("a", "b")), "same", told.append
    )
    assert any("no better than always saying the most frequent class (50.0%)" in line for line in told)


# -- Inception ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of no use in the layout of the published file, with the counters that it may hold as well."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    own = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        wanted = Trunk().state_dict()
    state = {}
    for name, empty in wanted.items():
        if name.endswith("conv.weight"):
            state[name] = torch.randn(empty.shape, generator=own) * math.sqrt(2 / empty[0].numel())
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(empty.shape, generator=own) + 0.5
        else:
            state[name] = torch.randn(empty.shape, generator=own) * 0.05
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)
    save_file(state, path)
    return path


def test_inception_has_the_papers_parameters_under_the_files_names() -> None:
    with torch.device("meta"):
        trunk = Trunk()
    counts = {name: p.numel() for name, p in trunk.named_parameters()}
    assert sum(n for name, n in counts.items() if not name.startswith("fc.")) == 21_785_568
    assert counts["fc.weight"] == 1008 * 2048
    shapes = {name: tuple(t.shape) for name, t in trunk.state_dict().items()}
    assert shapes["Conv2d_1a_3x3.bn.running_mean"] == (32,)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6c.branch7x7dbl_5.conv.weight"] == (192, 160, 1, 7)
    assert shapes["Mixed_6c.branch7x7_3.conv.weight"] == (192, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)
    assert len(shapes) == 94 * 5 + 2  # convolutions of five tensors each, and the last layer


def test_inceptions_layers_and_logits(random_weights: Path) -> None:
    x = noise(2, 3, 20, 30)
    network = Inception((3, 20, 30), "tanh", weights=random_weights)
    embedding, logits = network(x)
    assert logits is not None
    torch.testing.assert_close(logits, embedding @ load_file(random_weights)["fc.weight"].T)  # no bias, as IS has it
    assert network.trunk is not None
    picture = resized(to_bytes(x), (299, 299))
    found = network.trunk((picture - 128) / 128)
    assert {k: tuple(v.shape) for k, v in found.items()} == {k: (2, k) for k in (64, 192, 768, 2048)}
    torch.testing.assert_close(found[2048], embedding)
    early = Inception((3, 20, 30), "tanh", weights=random_weights, layer=192)
    torch.testing.assert_close(early(x)[0], found[192])
    assert early.describe()["dim"] == 192


def test_grey_pictures_are_repeated_and_described(random_weights: Path) -> None:
    x = noise(1, 1, 8, 8)
    grey, colour = (Inception((c, 8, 8), "tanh", weights=random_weights, layer=64) for c in (1, 3))
    assert torch.equal(grey(x)[0], colour(x.repeat(1, 3, 1, 1))[0])
    described = grey.describe()
    assert described["weights"] == hashlib.sha256(random_weights.read_bytes()).hexdigest()[:16]
    assert described["published"] is False


def test_resizing_is_tensorflow_1s() -> None:
    def slowly(x: Tensor, side: int) -> Tensor:
        h, w = x.shape
        out = torch.empty(side, side)
        for i in range(side):
            for j in range(side):
                y, z = i * h / side, j * w / side
                y0, z0 = math.floor(y), math.floor(z)
                y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1)
                top = x[y0, z0] * (1 - z + z0) + x[y0, z1] * (z - z0)
                out[i, j] = top * (1 - y + y0) + (x[y1, z0] * (1 - z + z0) + x[y1, z1] * (z - z0)) * (y - y0)
        return out

    for h, w in ((5, 9), (23, 11), (11, 40)):
        x = to_bytes(noise(h, w))
        torch.testing.assert_close(resized(x[None, None], (11, 11))[0, 0], slowly(x, 11), rtol=1e-5, atol=1e-3)
    row = resized(torch.tensor([[0.0, 10.0]])[None, None], (1, 4))[0, 0, 0]
    assert row.tolist() == [0.0, 5.0, 10.0, 10.0]  # no half pixel: the first is the first, the last two the last


def test_bytes_are_rounded() -> None:
    assert to_bytes(torch.tensor([-2.0, -1.0, 0.0, 0.0039, 1.0])).tolist() == [0.0, 0.0, 128.0, 128.0, 255.0]
    every = torch.arange(256.0)
    assert torch.equal(to_bytes(every * (2 / 255) - 1), every)


def test_pools_of_the_blocks() -> None:
    x = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    average, most, reduced = (Mixed(1, {"_pool": []}, pool)(x)[0, 0] for pool in ("average", "max", "reduce"))  # type: ignore[arg-type]
    assert average.tolist() == [[3.0, 3.5, 4.0], [4.5, 5.0, 5.5], [6.0, 6.5, 7.0]]  # corners of 4, edges of 6 pixels
    assert most.tolist() == [[5.0, 6.0, 6.0], [8.0, 9.0, 9.0], [8.0, 9.0, 9.0]]
    assert reduced.tolist() == [[9.0]]
    with torch.device("meta"):
        pools = {name: block.pool for name, block in Trunk().named_children() if isinstance(block, Mixed)}
    assert [name for name, pool in pools.items() if pool == "reduce"] == ["Mixed_6a", "Mixed_7a"]
    assert [name for name, pool in pools.items() if pool == "max"] == ["Mixed_7c"]


def test_large_batches_go_through_in_pieces() -> None:
    from hybridgen_features.pictures import in_pieces

    sizes: list[int] = []

    def double(x: Tensor) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(x))
        return 2 * x, None

    x = noise(2 * PIECE + 1, 3)
    assert torch.equal(in_pieces(double, x)[0], 2 * x)
    assert sizes == [PIECE, PIECE, 1]


def test_inception_without_weights_says_both_ways(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'no weights; write `weights = "PATH/{FILE}"`, or `download = true`'):
        Inception((3, 8, 8), "tanh")
    with pytest.raises(ValueError, match=r"two sources of weights"):
        Inception((3, 8, 8), "tanh", weights=tmp_path / "a.pth", download=True)
    with pytest.raises(ValueError, match=r"there is no file .*a.pth; write the path of"):
        Inception((3, 8, 8), "tanh", weights=tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"pictures \(c h w\) in \[-1, 1\]; .* 'identity'"):
        Inception((3, 8, 8), "identity", download=True)
    with pytest.raises(ValueError, match=r"these have 4"):
        Inception((4, 8, 8), "tanh", download=True)


@pytest.mark.parametrize("how", ["missing", "shape", "beside", "no tensors"])
def test_inception_takes_no_other_weights(how: str, random_weights: Path, tmp_path: Path) -> None:
    state = load_file(random_weights)
    said = "does not hold the weights that FID uses"
    if how == "missing":
        del state["Mixed_7c.branch1x1.bn.bias"]
    elif how == "shape":  # ImageNet's own 1000 classes
        state["fc.weight"] = state["fc.weight"][:1000].clone()
    elif how == "beside":
        state["AuxLogits.fc.bias"] = torch.zeros(1000)
    path = tmp_path / "other.safetensors"
    if how == "no tensors":
        path.write_bytes(b"<html>")
        said = "can't be read as safetensors"
    else:
        save_file(state, path)
    with pytest.raises(ValueError, match=said):
        Inception((3, 8, 8), "tanh", weights=path)


@pytest.fixture
def server(random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published file that lies here: the random weights as torch.save writes them."""
    path = tmp_path / "published.pth"
    torch.save(load_file(random_weights), path)
    monkeypatch.setattr(inception, "URL", path.as_uri())
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_weights_are_fetched_once_and_only_when_asked(server: Path, cached: Path) -> None:
    network = Inception((1, 8, 8), "tanh", download=True)
    with pytest.raises(RuntimeError, match=r"which nobody called"):
        network(noise(1, 1, 8, 8))
    assert not cached.exists()
    told: list[str] = []
    network.prepare(*toy(), "toy", told.append)
    assert told[-1] == f"Inception's weights are kept as {cached / FILE}"
    assert "MB" in told[0]
    assert [path.name for path in cached.iterdir()] == [FILE]
    assert network.describe()["published"] is True
    server.unlink()
    again = Inception((1, 8, 8), "tanh", download=True)
    again.prepare(*toy(), "toy", no_training)
    assert again.digest == network.digest


def test_a_wrong_or_broken_download_leaves_nothing_behind(server: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = server.read_bytes()
    server.write_bytes(content[:-1])
    network = Inception((1, 8, 8), "tanh", download=True)
    with pytest.raises(PluginError, match=r"is not the file it should be \(SHA-256 .*fetch it by hand and write `weights"):
        network.prepare(*toy(), "toy", lambda text: None)
    assert list(cached.iterdir()) == []
    server.unlink()  # as offline
    with pytest.raises(PluginError, match=r"can't be fetched from file:.* by hand"):
        network.prepare(*toy(), "toy", lambda text: None)
    assert list(cached.iterdir()) == []
    server.write_bytes(content)
    (cached / FILE).write_bytes(b"half")
    told: list[str] = []
    network.prepare(*toy(), "toy", told.append)
    assert told[0].endswith("is damaged; fetching it again")
    assert (cached / FILE).read_bytes() == content


def test_the_published_hash_is_the_one_in_the_files_name() -> None:
    assert f"-{inception.SHA256[:8]}.pth" in FILE
    assert inception.URL.endswith(FILE)


def fidelity() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except Exception as error:  # torchvision beside a torch that it wasn't built for raises RuntimeError
        pytest.skip(f"torch_fidelity can't be imported: {error}")
    return feature_extractor_inceptionv3.FeatureExtractorInceptionV3


def test_inception_agrees_with_torch_fidelity(random_weights: Path, tmp_path: Path) -> None:
    extractor = fidelity()
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in load_file(random_weights).items() if "num_batches" not in k}, path)
    names = ["64", "192", "768", "2048", "logits_unbiased"]
    other = extractor("inception", names, feature_extractor_weights_path=str(path)).eval()
    for h, w in ((32, 32), (40, 57), (310, 300)):
        values = torch.randint(0, 256, (2, 3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            *features, logits = other(values)
        for layer, feature in zip((64, 192, 768, 2048), features, strict=True):
            own = Inception((3, h, w), "tanh", weights=path, layer=layer)(values / 127.5 - 1)  # type: ignore[arg-type]
            torch.testing.assert_close(own[0], feature.flatten(1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own[1], logits, rtol=1e-4, atol=1e-4)


# -- timm --------------------------------------------------------------------------------------------------------------


def test_timm_that_cannot_be_imported_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import builtins

    plain = builtins.__import__

    def refusing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ValueError, match=r"torchvision::nms does not exist.*pip install 'hybridgen\[timm\]'.*built for torch"):
        timm_network.Timm((1, 8, 8), "tanh", network="resnet18", weights=tmp_path / "a.safetensors")


@pytest.fixture
def timm() -> Any:
    try:
        return timm_network.imported()
    except ValueError as error:
        pytest.skip(str(error))


def saved(network: Any, path: Path) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("classes", [0, 7])
def test_a_timm_network_gives_its_pooled_features_and_the_logits_of_its_file(timm: Any, classes: int, tmp_path: Path) -> None:
    other = timm.create_model("resnet18", num_classes=classes).eval()
    state = torch.get_rng_state()
    path = saved(other, tmp_path / "a.safetensors")
    network = timm_network.Timm((1, 8, 8), "tanh", network="resnet18", weights=path, size=64)
    assert torch.equal(torch.get_rng_state(), state)
    network.train()
    assert not any(module.training for module in network.modules())
    x = noise(2, 1, 8, 8)
    embedding, logits = network(x)
    picture = F.interpolate(to_bytes(x).repeat(1, 3, 1, 1) / 255, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    seen = (picture - torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).reshape(
        3, 1, 1
    )
    with torch.no_grad():
        expected = other.forward_head(other.forward_features(seen), pre_logits=True)
        torch.testing.assert_close(embedding, expected)
        assert embedding.shape == (2, network.dim)
        assert network.classes == classes
        if classes:
            torch.testing.assert_close(logits, other(seen))
        else:
            assert logits is None
    described = json.loads(json.dumps(network.describe()))
    assert described["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert described["input"] == [3, 64, 64]


def test_what_timm_cannot_take_is_said(timm: Any, tmp_path: Path) -> None:
    path = saved(timm.create_model("resnet18", num_classes=0), tmp_path / "a.safetensors")

    def make(network: str, weights: Path = path, size: int | None = None) -> Any:
        return timm_network.Timm((1, 8, 8), "tanh", network=network, weights=weights, size=size)

    with pytest.raises(ValueError, match=r"there is no file .*b.safetensors"):
        make("resnet18", tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"has no network 'resnot18'; did you mean resnet18"):
        make("resnot18")
    with pytest.raises(ValueError, match=r"does not hold the weights of timm .*'resnet34': .*Missing key"):
        make("resnet34")
    vit = saved(timm.create_model("vit_tiny_patch16_224", num_classes=0), tmp_path / "vit.safetensors")
    assert make("vit_tiny_patch16_224", vit, 48)(noise(1, 1, 8, 8))[0].shape == (1, 192)
    with pytest.raises(ValueError, match=r"can't see pictures of 50x50 .* write another `size`"):
        make("vit_tiny_patch16_224", vit, 50)
