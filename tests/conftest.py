"""What tests share: recipes written inline, models and trainers built from them, components that exist for tests only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.data import SampleSpec
from hybridgen.model import Model, build
from hybridgen.precision import Choices
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import Registry, load_registry
from hybridgen.step import Training

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

RECIPES = ("ae-digits", "vae-digits", "gan-digits", "vagan-digits", "gan-ring", "vagan-images")


class R1(nn.Module):
    """Mean squared gradient norm of the critic at real samples, half of it (Mescheder et al. 2018)."""

    def __init__(self, *, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    def discriminator(self, critic: Any, judged_real: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda x: critic(x).sum())(judged_real)
        return 0.5 * self.gamma * gradient.flatten(1).square().sum(1).mean()


class BatchNormCritic(nn.Module):
    """A critic whose batch statistics couple samples."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = int(torch.tensor(judged_shape).prod())
        self.first = nn.Linear(size, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = torch.nn.functional.silu(self.norm(self.first(x.flatten(1))))
        return self.last(h).squeeze(1), [h]


class PairCritic(nn.Module):
    """A critic of joint samples (x, z), as BiGAN's."""

    def __init__(self, judged_shape: tuple[int, ...], z_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = int(torch.tensor(judged_shape).prod()) + z_shape[0]
        self.body = nn.Sequential(nn.Linear(size, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.body(torch.cat([x.flatten(1), z], 1)).squeeze(1), []


class Conditional(nn.Module):
    """A decoder that asks for the label."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.shape = sample_shape
        self.body = nn.Linear(z_shape[0] + num_classes, int(torch.tensor(sample_shape).prod()))
        self.classes = num_classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        one_hot = torch.nn.functional.one_hot(label, self.classes).float()
        return self.body(torch.cat([z, one_hot], 1)).unflatten(1, self.shape)


class FeatureMatching(nn.Module):
    """Squared distance of the critic's features on reconstructions and on data (Larsen et al. 2015)."""

    def forward(self, real_features: list[Tensor], recon_features: list[Tensor]) -> Tensor:
        pairs = zip(real_features, recon_features, strict=True)
        return sum((a.detach() - b).square().flatten(1).sum(1).mean() for a, b in pairs)


class Poison(nn.Module):
    """A term that is not a number from a step on."""

    def __init__(self, *, at: int = 3) -> None:
        super().__init__()
        self.at = at

    def forward(self, recon: Tensor, step: Tensor) -> Tensor:
        return recon.mean() * torch.where(step >= self.at, torch.nan, 0.0)


class PoisonOnce(Poison):
    """A term that is not a number in one step."""

    def forward(self, recon: Tensor, step: Tensor) -> Tensor:
        return recon.mean() * torch.where(step == self.at, torch.nan, 0.0)


class Counting(nn.Module):
    """A term with a state of its own: an average of what it saw, moved once an optimiser step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (x - recon).square().mean() + 0.0 * self.average

    def update(self, x: Tensor) -> None:
        self.seen += 1
        self.average.lerp_(x.mean(), 0.1)


class Asks(nn.Module):
    """A term that asks for a name that exists nowhere."""

    def forward(self, reconn: Tensor) -> Tensor:
        return reconn.mean()


def noisy(x: Tensor, noise: Tensor, *, sigma: float = 0.5) -> Tensor:
    """x plus Gaussian noise: the input of a denoising autoencoder."""
    return x + sigma * noise


def between(judged_real: Tensor, judged_fake: Tensor, uniform: Tensor) -> Tensor:
    """A point between a real and a generated sample, one coefficient a sample (WGAN-GP)."""
    t = uniform.reshape(-1, *[1] * (judged_real.ndim - 1))
    return judged_real + t * (judged_fake - judged_real)


class GradientPenalty(nn.Module):
    """(|gradient of the critic between| - 1)^2 (Gulrajani et al. 2017)."""

    def discriminator(self, critic: Any, between: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda x: critic(x).sum())(between)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def darker(x: Tensor, uniform: Tensor) -> Tensor:
    """A differentiable augmentation: each sample darkened by an amount of its own."""
    return x - 0.1 * uniform.reshape(-1, *[1] * (x.ndim - 1))


class Events:
    """A reporter that keeps what it is told."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012  (read by tests)

    def event(self, event: dict[str, Any]) -> None:
        Events.seen.append(event)


@hookimpl
def _register(register: Any) -> None:
    register.loss("r1", R1)
    register.loss("gradient-penalty", GradientPenalty)
    register.loss("feature-matching", FeatureMatching)
    register.loss("poison", Poison)
    register.loss("poison-once", PoisonOnce)
    register.loss("counting", Counting)
    register.loss("asks", Asks)
    register.discriminator("batch-norm", BatchNormCritic)
    register.discriminator("pair", PairCritic)
    register.decoder("conditional", Conditional)
    register.provider("noisy", noisy)
    register.provider("between", between)
    register.provider("darker", darker)
    register.reporter("events", Events)


FIXTURES = SimpleNamespace(register_components=_register)


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry(extra={"fixtures": FIXTURES})


@pytest.fixture
def recipe(tmp_path: Path, registry: Registry) -> Callable[..., Recipe]:
    """`recipe(text, *overrides)`: a recipe written to a file and loaded."""

    def make(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "test.toml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides, registry=registry)

    return make


SPEC = SampleSpec(kind="image", shape=(1, 8, 8), count=64, low=0, high=16, levels=17, activation="tanh", classes=())
LABELLED = SampleSpec(
    kind="image", shape=(1, 8, 8), count=64, low=0, high=16, levels=17, activation="tanh", classes=tuple("0123456789")
)

EAGER = Choices("cpu", "fp32", False, ())


@pytest.fixture
def training(recipe: Callable[..., Recipe]) -> Callable[..., Training]:
    """`training(text, *overrides, spec=SPEC)`: a model and what a step moves."""

    def make(text: str, *overrides: str, spec: SampleSpec = SPEC, choices: Choices = EAGER) -> Training:
        return Training(build(recipe(text, *overrides), spec), choices)

    return make


def batch(size: int = 8, seed: int = 0, spec: SampleSpec = SPEC) -> dict[str, Tensor]:
    """A batch of noise shaped like data, with labels where the data has them."""
    generator = torch.Generator().manual_seed(seed)
    made = {"x": torch.rand(size, *spec.shape, generator=generator) * 2 - 1}
    if spec.classes:
        made["label"] = torch.randint(0, len(spec.classes), (size,), generator=generator)
    return made


def parameters(model: Model) -> dict[str, Tensor]:
    """Every parameter by `part/name`, copied."""
    return {f"{p}/{k}": v.detach().clone() for p, m in model.parts.items() for k, v in m.named_parameters()}


@pytest.fixture(autouse=True)
def _no_compile_leftovers() -> Iterator[None]:
    yield
    torch._dynamo.reset()
