"""A small classifier of the data at hand: features that need no download."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError, RunError
from hybridgen.files import write_atomically
from hybridgen_features import cache

FORMAT: Final = 1
"""Counts changes of architecture and training: what was cached under another number is not what would be trained now."""
KEY: Final = "hybridgen-classifier"
BATCH: Final = 128
RATE: Final = 4e-3
DECAY: Final = 0.01
WIDTH: Final = 128
SEED: Final = 0
TOLD_EVERY: Final = 2.0  # seconds


def convolutions(shape: tuple[int, int, int]) -> tuple[list[nn.Module], int]:
    """Layers that halve each side until it is at most 4, and the number of values that they leave.

    Channels double with each halving, so every layer costs about the same. Batch normalisation, because it is a fixed affine
    map once trained: norms over a sample's own values would hide its contrast from the embedding.
    """
    channels, height, width = shape
    strides = []
    while max(height, width) > 4:
        strides.append((2 if height > 4 else 1, 2 if width > 4 else 1))
        height, width = (-(-side // stride) for side, stride in zip((height, width), strides[-1], strict=True))
    strides = strides or [(1, 1)]
    widths = [channels, *(max(16, WIDTH >> i) for i in reversed(range(len(strides))))]
    layers: list[nn.Module] = []
    for i, ((before, after), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
        kernel = 3 if i else 5
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after), nn.SiLU()]
    return layers, widths[-1] * height * width


def perceptron(size: int) -> tuple[list[nn.Module], int]:
    """Two hidden layers for what is no picture."""
    return [nn.Flatten(), nn.Linear(size, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()], WIDTH


class Network(nn.Module):
    """A sample to its embedding, silu of the penultimate linear layer, and to the logits, a linear map of that.

    Shapes: x `b ...` in model space; returns `b e` and `b k`.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, dim: int) -> None:
        super().__init__()
        layers, left = convolutions(shape) if len(shape) == 3 else perceptron(math.prod(shape))
        self.mean: Tensor  # of the training data: a channel's in pictures, else an entry's
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1) if len(shape) == 3 else torch.zeros(shape))
        self.register_buffer("std", torch.ones_like(self.mean))
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.embed = nn.Linear(left, dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = F.silu(self.embed(self.body((x.float() - self.mean) / self.std)))
        return embedding, self.head(embedding)


class Classifier(nn.Module):
    """A small classifier, trained once on the labelled training data at hand; the embedding is its last hidden layer.

    Pictures of any size and number of channels go through convolutions that halve their sides, anything else through two
    hidden layers. Trained with cross-entropy by AdamW for `steps` batches of 128, pictures shifted by up to a pixel, from a
    fixed seed: the same data give the same weights on the same machine with as many threads. They are kept in
    $HYBRIDGEN_CACHE (else $XDG_CACHE_HOME/hybridgen, else ~/.cache/hybridgen) below features/, under a name that says what
    they were trained on; the number of examples and the accuracy on held-out ones stand in the protocol.

    Shapes: x `b ...` in model space; returns the embedding `b dim` and the logits `b k`.
    Raises: ValueError without labels and without `weights`, and for a file of another sample shape or size of embedding.

    When: labelled data that ImageNet's networks know nothing of (digits, spectra, tables), and wherever nothing may be
        downloaded. Numbers compare only through the same weights: give others your file by `weights`.
    Healthy: the held-out accuracy is far above chance (digits 0.98, Fashion-MNIST 0.90 in half a minute). Where it is not,
        the distances tell nothing. It sees what tells the classes apart, and little else.
    Source: for features of one's own domain in a Frechet distance: Heusel et al. 2017 (arXiv:1706.08500), section on FID;
        Kynkäänniemi et al. 2023 (arXiv:2203.06026), on what features of class labels see.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int | None = None,
        *,
        dim: Annotated[int, Field(ge=2, description="numbers in the embedding")] = 64,
        steps: Annotated[
            int | None, Field(ge=1, description="of training; 600 below 10,000 examples, 1,000 from there on")
        ] = None,
        weights: Annotated[
            Path | None, Field(description="a file of such a classifier, out of the cache, in the place of training one")
        ] = None,
    ) -> None:
        super().__init__()
        self.shape, self.dim, self.steps = tuple(sample_shape), dim, steps
        self.about: dict[str, Any] = {}
        state = None
        if weights is not None:
            if not weights.is_file():
                raise ValueError(
                    f"classifier: there is no file {weights}; write the path of a classifier that hybridgen trained, or leave "
                    "`weights` out to train one"
                )
            state, about = read(weights)
            self._refuse_other(weights, about)
            classes = int(about["classes"])
        elif num_classes is None:
            raise ValueError(
                "classifier: the data have no labels to train it with; give a classifier of such samples by "
                '`weights = "FILE.safetensors"`, or write `use = "inception"` (photographs) or `use = "raw"` (vectors)'
            )
        elif num_classes < 2:
            raise ValueError(
                "classifier: the data have one class, so there is nothing to tell apart; "
                'write `use = "raw"` or `use = "inception"`'
            )
        else:
            classes = num_classes
        self.classes = classes
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)  # not torch.manual_seed, which seeds every GPU as well
            self.network = Network(self.shape, classes, dim)
        if state is not None:
            self._adopt(state, about)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        """Stays in eval mode, whoever asks: an embedding depends on no batch mates. `fit` trains the network inside."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(x)

    def prepare(self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, data: str, tell: Callable[[str], None]) -> None:
        """Take the weights from the cache, or train them and put them there. Raises DataError for data without labels."""
        if self.about:
            return
        if train.label is None or len(train) < 2:
            found = "no labels" if train.label is None else f"{len(train)} of them"
            raise DataError(f"the classifier that metrics see through needs labelled training examples; there are {found}")
        trained = self._trained_on(train, spec, data)
        path = cache.folder() / self._file(trained)
        if self._cached(path, trained, tell):
            return
        fit(self.network, train, spec, trained["steps"], data, tell)
        accuracy = None if held_out is None or held_out.label is None else measured(self.network, held_out, spec)
        state = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        self.about = trained | {
            "held_out": 0 if accuracy is None or held_out is None else len(held_out),
            "accuracy": accuracy,
            "torch": torch.__version__,
            "weights": cache.digest(state)[:16],
        }
        self._keep(path, state, tell)
        if accuracy is not None and held_out is not None:
            self._tell_accuracy(accuracy, held_out, data, tell)

    def describe(self) -> dict[str, Any]:
        """The protocol: what it was trained on, how well it does, and which weights it has."""
        known = ("trained_on", "examples", "held_out", "accuracy", "steps", "weights")
        return {
            "name": "classifier",
            "dim": self.dim,
            "classes": self.classes,
            "input": list(self.shape),
            **{name: self.about.get(name) for name in known},
        }

    def _trained_on(self, train: Arrays, spec: SampleSpec, data: str) -> dict[str, Any]:
        """Everything that the weights are a function of (but for the machine)."""
        assert train.label is not None
        return {
            "format": FORMAT,
            "sample_shape": list(self.shape),
            "classes": self.classes,
            "dim": self.dim,
            "trained_on": data,
            "examples": len(train),
            "data": cache.digest({"x": train.tensor(), "label": train.label}),
            "range": [spec.low, spec.high],
            "steps": self.steps or (600 if len(train) < 10_000 else 1000),
        }

    def _file(self, trained: dict[str, Any]) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", trained["trained_on"].lower()).strip("-") or "data"
        size = "x".join(str(n) for n in (trained["examples"], *self.shape))
        how = {key: trained[key] for key in ("format", "dim", "range", "steps")}
        how |= {"batch": BATCH, "rate": RATE, "decay": DECAY, "width": WIDTH, "seed": SEED}
        options = cache.text_digest(json.dumps(how, sort_keys=True))[:8]
        return f"classifier-{name}-{size}-{self.classes}classes-{trained['data'][:12]}-{options}.safetensors"

    def _cached(self, path: Path, trained: dict[str, Any], tell: Callable[[str], None]) -> bool:
        """Adopt what an earlier run kept. A file that isn't that is told, and trained anew."""
        if not path.exists():
            return False
        try:
            state, about = read(path)
            different = [key for key, value in trained.items() if about.get(key) != value]
            if different:
                raise ValueError(f"{path} was trained otherwise (its {', '.join(different)})")
            self._adopt(state, about)
        except ValueError as error:
            tell(f"{error}; training the classifier anew")
            return False
        return True

    def _keep(self, path: Path, state: dict[str, Tensor], tell: Callable[[str], None]) -> None:
        from safetensors.torch import save

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(state, metadata={KEY: json.dumps(self.about)}))
        except (OSError, RunError) as error:
            tell(f"the classifier is not kept for the next run: {error}; HYBRIDGEN_CACHE may name another folder")
        else:
            tell(f"the classifier is kept as {path}")

    def _adopt(self, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        own, other = ({name: tuple(t.shape) for name, t in s.items()} for s in (self.network.state_dict(), state))
        if own != other:  # looked at first: a failed load leaves some of the tensors replaced
            wrong = ", ".join(sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name)))
            raise ValueError(f"these are no weights of a classifier of {self.classes} classes with {self.dim} numbers: {wrong}")
        self.network.load_state_dict(state)
        self.about = about

    def _refuse_other(self, path: Path, about: dict[str, Any]) -> None:
        shape = tuple(about["sample_shape"])
        if shape != self.shape:
            raise ValueError(
                f"classifier: {path} is for samples of the shape {shape}, these have {self.shape}; give a file "
                "trained on samples of that shape, or leave `weights` out to train one"
            )
        if about["dim"] != self.dim:
            raise ValueError(f"classifier: the embedding of {path} has {about['dim']} numbers; write `dim = {about['dim']}`")

    def _tell_accuracy(self, accuracy: float, held_out: Arrays, data: str, tell: Callable[[str], None]) -> None:
        assert held_out.label is not None
        most = int(held_out.label.bincount().max()) / len(held_out)
        tell(f"the classifier names {accuracy:.1%} of {len(held_out)} held-out examples of '{data}' rightly")
        if accuracy <= most:
            tell(f"that is no better than always saying the most frequent class ({most:.1%}): its features tell little")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a file that a classifier was kept in, and what its header says of them.

    Raises: ValueError for anything else, and where the weights are not those that the header was written for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as safetensors ({error})") from error
    if not isinstance(about, dict) or not {"sample_shape", "classes", "dim", "weights"} <= about.keys():
        raise ValueError(f"{path} holds no classifier that hybridgen trained")
    if cache.digest(state)[:16] != about["weights"]:
        raise ValueError(f"{path} is damaged: its weights are not those that it was written with")
    return state, about


def fit(network: Network, train: Arrays, spec: SampleSpec, steps: int, data: str, tell: Callable[[str], None]) -> None:
    """Train in place, as a function of the examples alone: order and shifts come from a generator of its own."""
    assert train.label is not None
    device, own = network.mean.device, torch.Generator().manual_seed(SEED)
    count = len(train)
    some = spec.to_model(train.x[:: max(1, count // 10_000)]).to(device)
    over = (0, 2, 3) if len(spec.shape) == 3 else (0,)
    std = some.std(over, correction=0).reshape(network.std.shape)
    network.mean.copy_(some.mean(over).reshape(network.mean.shape))
    network.std.copy_(torch.where(std > 1e-6, std, 1.0))
    optim = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    shifts = len(spec.shape) == 3 and min(spec.shape[1:]) >= 8
    order = torch.empty(0, dtype=torch.long)
    told = time.monotonic()
    network.train().requires_grad_(True)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for step in range(steps):
            while len(order) < min(BATCH, count):
                order = torch.cat([order, torch.randperm(count, generator=own)])
            chosen, order = order[:BATCH].to(train.x.device), order[BATCH:]
            x = spec.to_model(train.x[chosen]).to(device)
            if shifts:
                x = _shifted(x, own)
            label = train.label[chosen.to(train.label.device)].to(device)
            loss = F.cross_entropy(network(x)[1], label)
            optim.zero_grad()
            loss.backward()
            optim.param_groups[0]["lr"] = RATE * ramp(step, steps)
            optim.step()
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                tell(f"training a classifier on {count} examples of '{data}', to see through it: step {step + 1} of {steps}")
    network.eval().requires_grad_(False)


def ramp(step: int, steps: int) -> float:
    """The share of the full rate: up linearly over the first fifth, down by half a cosine."""
    rise = max(1, steps // 5)
    return (step + 1) / rise if step < rise else 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (steps - rise))


def _shifted(x: Tensor, own: torch.Generator) -> Tensor:
    """All pictures of a batch moved by the same -1, 0 or 1 pixel in each direction; edges are repeated."""
    down, right = torch.randint(0, 3, (2,), generator=own).tolist()
    return F.pad(x, (1, 1, 1, 1), mode="replicate")[..., down : down + x.shape[-2], right : right + x.shape[-1]]


@torch.no_grad()
def measured(network: Network, arrays: Arrays, spec: SampleSpec) -> float:
    """The share of examples whose likeliest class is their label."""
    assert arrays.label is not None
    right = 0
    for start in range(0, len(arrays), 500):
        x = spec.to_model(arrays.x[start : start + 500]).to(network.mean.device)
        right += int((network(x)[1].argmax(1).cpu() == arrays.label[start : start + 500].cpu()).sum())
    return round(right / len(arrays), 4)
