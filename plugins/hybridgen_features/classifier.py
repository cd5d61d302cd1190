"""The offline default: a small classifier, trained once on the labelled examples at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import RunError, UserError
from hybridgen.files import write_atomically
from hybridgen_features import cache

VERSION = 1
"""Of architecture and training together: another number, another cache file."""

BATCH = 128


class Classifier(nn.Module):
    """The layer before the last of a classifier that was trained once on the labelled training examples; its class
    probabilities serve scores that ask for them.

    Convolutions of stride 2 down to about 4 pixels for pictures of any size, two hidden layers for everything else; then `dim`
    values without a squashing behind them. Trained with AdamW on batches of 128, pictures shifted by up to a sixteenth of
    their side, from a seed of its own; kept in the cache under a name that says what it was trained on. Embeddings of two
    trainings differ, so their numbers don't compare: the protocol holds the SHA-256 of the weights, and copying the cached
    file (or naming it in `weights`) carries the features to another machine.

    Shapes: x `b ...` -> embedding `b dim`, logits `b k`.
    Raises: ValueError for data without labels where no weights are given, and for weights that are missing.

    When: no weights of a large network are at hand, or the data are none that photographs teach anything of.
    Healthy: held-out accuracy (in the protocol) well above chance; a classifier that guesses sees nothing.
    Source: the measure's idea is Heusel et al. 2017 (arXiv:1706.08500), section 4 with a network of the data's own.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        *,
        dim: Annotated[int, Field(ge=2, description="values of an embedding; fewer need fewer samples")] = 32,
        steps: Annotated[int, Field(ge=1, description="training steps of 128 examples")] = 600,
        seed: Annotated[int, Field(ge=0, description="of its training")] = 0,
        weights: Annotated[Path | None, Field(description="a file that was trained before; no labels are needed then")] = None,
    ) -> None:
        super().__init__()
        if weights is not None and not weights.is_file():
            raise ValueError(f"classifier: there is no file {weights}; leave `weights` away to train one on the data's labels")
        if weights is None and not num_classes:
            raise ValueError(
                "classifier: these data have no labels to train on; write the path of one that was trained before in `weights`, "
                'or name other features, e.g. use = "inception"'
            )
        self.shape, self.dim, self.steps, self.seed, self.weights = tuple(sample_shape), dim, steps, seed, weights
        self.classes = num_classes
        self.facts: dict[str, Any] = {}
        if weights is not None:
            state, self.facts = _read(weights)
            if tuple(self.facts["shape"]) != self.shape:
                made = "x".join(map(str, self.facts["shape"]))
                raise ValueError(f"classifier: {weights} was trained on examples of {made}, these are {self.shape}")
            self.classes, self.dim = int(self.facts["classes"]), int(self.facts["dim"])
        self.body = _trunk(self.shape, self.dim)
        self.head = nn.Linear(self.dim, self.classes)
        if weights is not None:
            self.load_state_dict(state)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.body(x.float())
        return embedding, self.head(F.silu(embedding))

    def describe(self) -> dict[str, Any]:
        """What these features are, for the protocol: what they were trained on, how well, and which weights they are."""
        facts = {key: self.facts[key] for key in ("trained_on", "examples", "accuracy") if key in self.facts}
        return {"dim": self.dim, **facts, "steps": self.facts.get("steps"), "weights": cache.digest(self.state_dict())[:16]}

    def prepare(
        self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, data: str, tell: Callable[[str], None]
    ) -> None:
        """Find the classifier in the cache, or train it and put it there. Raises UserError without labels."""
        if self.facts:
            return
        if train.label is None:
            raise UserError("these data have no labels to train a classifier on")
        path = cache.folder() / self._name(train, data)
        if self._found(path, tell):
            return
        tell(f"training a classifier on {len(train):,} examples of {data}, once; it is kept in {path.parent}")
        accuracy = self._train(train, held_out, spec, tell)
        self.facts = {
            "trained_on": data,
            "examples": len(train),
            "accuracy": round(accuracy, 4),
            "steps": self.steps,
            "shape": list(self.shape),
            "classes": self.classes,
            "dim": self.dim,
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(state, metadata={"hybridgen": json.dumps(self.facts)}))
        except (OSError, RunError) as error:
            tell(f"the classifier can't be kept ({error}), so the next run trains it again; HYBRIDGEN_CACHE names a folder for it")

    def _name(self, train: Arrays, data: str) -> str:
        """What a cache file was trained on: data, count, shape, classes, the examples themselves, and how."""
        examples = cache.digest({"x": train.x, "label": train.label if train.label is not None else torch.zeros(0)})[:12]
        how = hashlib.sha256(repr((VERSION, self.dim, self.steps, self.seed)).encode()).hexdigest()[:6]
        shape = "x".join(map(str, self.shape))
        return f"classifier-{data}-{len(train)}x{shape}-{self.classes}classes-{examples}-{how}.safetensors"

    def _found(self, path: Path, tell: Callable[[str], None]) -> bool:
        if not path.is_file():
            return False
        try:
            state, facts = _read(path)
            self.load_state_dict(state)
            self.facts = facts
        except (ValueError, RuntimeError) as error:
            tell(f"{path} is damaged ({str(error).splitlines()[0]}) and is made anew")
            return False
        return True

    def _train(self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, tell: Callable[[str], None]) -> float:
        """Train from scratch; returns the accuracy on held-out examples (on the training ones where there are none)."""
        device = next(self.parameters()).device
        assert train.label is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for module in self.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
            generator = torch.Generator().manual_seed(self.seed)
            optimiser = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=self.steps)
            self.train()
            for step in range(self.steps):
                if step and step % 200 == 0:
                    tell(f"training a classifier: step {step} of {self.steps}")
                chosen = torch.randint(len(train), (min(BATCH, len(train)),), generator=generator)
                x = spec.to_model(train.x[chosen].to(device))
                x = _shifted(x, generator) if len(self.shape) == 3 else x
                loss = F.cross_entropy(self(x)[1], train.label[chosen].to(device), label_smoothing=0.05)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
        self.eval()
        return self._accuracy(held_out if held_out is not None and len(held_out) else train, spec, device)

    @torch.no_grad()
    def _accuracy(self, arrays: Arrays, spec: SampleSpec, device: torch.device) -> float:
        assert arrays.label is not None
        right = torch.zeros((), dtype=torch.long, device=device)
        for start in range(0, len(arrays), 512):
            piece = slice(start, start + 512)
            guess = self(spec.to_model(arrays.x[piece].to(device)))[1].argmax(1)
            right += (guess == arrays.label[piece].to(device)).sum()
        return int(right) / max(len(arrays), 1)


def _trunk(shape: tuple[int, ...], dim: int) -> nn.Module:
    """Everything before the embedding's activation. Group norm, so that an embedding never depends on its batch mates."""
    if len(shape) != 3:
        size = 1
        for side in shape:
            size *= side
        hidden = [nn.Flatten(), nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()]
        return nn.Sequential(*hidden, nn.Linear(128, dim))
    channels, side, width = shape[0], min(shape[1:]), 16
    layers: list[nn.Module] = []
    while True:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
        if side <= 5:
            break
        layers += [nn.Conv2d(width, min(2 * width, 64), 3, stride=2, padding=1), nn.SiLU()]
        channels = width = min(2 * width, 64)
        side = (side + 1) // 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, dim))


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch shifted together by up to a sixteenth of each side (a pixel at least), borders repeated. `b c h w`."""
    height, width = x.shape[2:]
    most = [max(1, side // 16) for side in (height, width)]
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), mode="replicate")
    top, left = (int(torch.randint(2 * m + 1, (), generator=generator)) for m in most)
    return padded[..., top : top + height, left : left + width]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and facts of a file that `prepare` wrote. Raises ValueError for any other."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["hybridgen"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no classifier that hybridgen trained ({type(error).__name__}: {error})") from error
