"""What tests share: components that exist for tests only, data descriptions, batches."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.data import SampleSpec
from hybridgen.model import Model
from hybridgen.routing import Term
from hybridgen.step import Training, train_step
from hybridgen.testing import probe
from hybridgen.testing.probe import Reads, compile_by, everything, hand_over, steps
from hybridgen.testing.subject import EAGER

__all__ = ["EAGER", "Reads", "compile_by", "everything", "hand_over", "steps"]

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.toml"))


def needs(name: str) -> list[str]:
    """What a shipped recipe leaves to its user."""
    return ["data.path=/pictures"] if name == "vagan-images" else []


SPEC = SampleSpec(kind="image", shape=(1, 8, 8), count=64, low=0, high=16, levels=17, activation="tanh", classes=())
LABELLED = SampleSpec(
    kind="image", shape=(1, 8, 8), count=64, low=0, high=16, levels=17, activation="tanh", classes=tuple("0123456789")
)

POINTS = SampleSpec(kind="vector", shape=(2,), count=64)


def batch(size: int = 8, seed: int = 0, spec: SampleSpec = SPEC) -> dict[str, Tensor]:
    """A batch of noise shaped like data, with labels where the data has them."""
    return probe.batch(size, seed, spec=spec)


def parameters(model: Model) -> dict[str, Tensor]:
    """Every parameter by `part/name`, copied."""
    return {f"{p}/{k}": v.detach().clone() for p, m in model.parts.items() for k, v in m.named_parameters()}


SGD = ("optim.use=sgd", "optim.lr=0.1")
"""Overrides under which a parameter moves by a tenth of its gradient."""


def run(state: Training, steps: int, size: int = 8, per_step: int = 1) -> dict[str, Tensor]:
    spec = state.model.spec
    for step in range(1, steps + 1):
        train_step(state, [batch(size, 100 * step + i, spec) for i in range(per_step)], step)
    return parameters(state.model)


def close(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def captured(state: Training, step: int = 1, size: int = 8) -> dict[str, Tensor]:
    """The gradients that one step leaves for the optimisers, by parameter; nothing is moved."""
    return probe.captured(state, batch(size, spec=state.model.spec), step)


def isolated(state: Training, term: Term, step: int = 1, size: int = 8) -> dict[str, Tensor]:
    """The gradient of one term alone with respect to every parameter, by a second, naive evaluation of the graph."""
    return probe.isolated(state, term, batch(size, spec=state.model.spec), step)


class LookingCritic(nn.Module):
    """A critic that looks at its values on the host: no graph can hold that."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(math.prod(judged_shape))
        self.last = nn.Linear(math.prod(judged_shape), 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.flatten(1))
        if x.device.type != "meta" and float(h.detach().abs().max()) > 100.0:
            h = h / 2
        return self.last(h).squeeze(1)


class EagerCritic(LookingCritic):
    """The same, and says so."""

    compiles = False


class BatchNormCritic(nn.Module):
    """A critic whose batch statistics couple samples."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = math.prod(judged_shape)
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
        size = math.prod(judged_shape) + z_shape[0]
        self.body = nn.Sequential(nn.Linear(size, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.body(torch.cat([x.flatten(1), z], 1)).squeeze(1), []


class Conditional(nn.Module):
    """A decoder that asks for the label."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.shape = sample_shape
        self.body = nn.Linear(z_shape[0] + num_classes, math.prod(sample_shape))
        self.classes = num_classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        one_hot = torch.nn.functional.one_hot(label, self.classes).float()
        return self.body(torch.cat([z, one_hot], 1)).unflatten(1, self.shape)


class Push(nn.Module):
    """A term of the discriminator's side that reaches the encoder (Soft-IntroVAE's idea in one line)."""

    def discriminator(self, z: Tensor) -> Tensor:
        return z.square().mean()


class BothSides(nn.Module):
    """The encoder's side of BiGAN's game: make the real pair look generated (Donahue et al. 2016)."""

    def generator(self, real_logits: Tensor) -> Tensor:
        return torch.nn.functional.softplus(real_logits).mean()


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


class PenaltyBetween(nn.Module):
    """(|gradient of the critic between| - 1)^2 (Gulrajani et al. 2017), at a point that a provider gives."""

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
def register_components(register: Any) -> None:
    register.loss("penalty-between", PenaltyBetween)
    register.loss("push", Push)
    register.loss("both-sides", BothSides)
    register.loss("poison", Poison)
    register.loss("poison-once", PoisonOnce)
    register.loss("counting", Counting)
    register.loss("asks", Asks)
    register.discriminator("batch-norm", BatchNormCritic)
    register.discriminator("looks", LookingCritic)
    register.discriminator("eager", EagerCritic)
    register.discriminator("pair", PairCritic)
    register.decoder("conditional", Conditional)
    register.provider("noisy", noisy)
    register.provider("between", between)
    register.provider("darker", darker)
    register.reporter("events", Events)


FIXTURES = SimpleNamespace(register_components=register_components)


# -- recipes in small ----------------------------------------------------------------------------------------------------

DATA = """
[data]
use = "digits"
batch_size = 8
"""
NETWORKS = """
[encoder]
use = "mlp"
width = 16
[decoder]
use = "mlp"
width = 16
"""
AUTOENCODER = DATA + NETWORKS + '[loss.reconstruction]\nuse = "reconstruction"\n'
AE = AUTOENCODER + '[latent]\nuse = "deterministic"\ndim = 4\n'
VAE = AUTOENCODER + '[latent]\nuse = "gaussian"\ndim = 4\n[loss.kl]\nuse = "kl"\n'
CRITIC = """
[discriminator]
use = "mlp"
width = 16
fake = {fake}
[loss.adversarial]
use = "adversarial"
weight = 0.5
"""
GAN = DATA + '[decoder]\nuse = "mlp"\nwidth = 16\n[latent]\nuse = "gaussian"\ndim = 4\n' + CRITIC.replace("{fake}", '"fake"')
VAGAN = VAE + CRITIC.replace("{fake}", '["recon", "fake"]')
LARSEN = (
    VAE
    + CRITIC.replace("{fake}", '["recon", "fake"]').replace("weight = 0.5", 'trains = ["decoder"]')
    + '[loss.features]\nuse = "feature-reconstruction"\ntrains = { encoder = 1.0, decoder = 1e-3 }\n'
)
LARSEN = LARSEN.replace('[loss.kl]\nuse = "kl"', '[loss.kl]\nuse = "kl"\ntrains = ["encoder"]').replace(
    '[loss.reconstruction]\nuse = "reconstruction"\n', ""
)
ADVERSARIAL_AE = (
    AUTOENCODER
    + """
[latent]
use = "deterministic"
dim = 4
prior = "normal"
[discriminator]
use = "mlp"
width = 16
real = "z_prior"
fake = "z"
[loss.adversarial]
use = "adversarial"
"""
)
BIGAN = (
    DATA
    + NETWORKS
    + """
[latent]
use = "gaussian"
dim = 4
[discriminator]
use = "pair"
real = { x = "x", z = "z" }
fake = { x = "fake", z = "z_prior" }
[loss.adversarial]
use = "adversarial"
[loss.inverse]
use = "both-sides"
"""
)
TWO_CRITICS = (
    VAE
    + """
[discriminator.data]
use = "mlp"
width = 16
fake = "recon"
[discriminator.latent]
use = "mlp"
width = 16
real = "z_prior"
fake = "z"
[loss.sharp]
use = "adversarial"
discriminator = "data"
weight = 0.3
[loss.match]
use = "adversarial"
discriminator = "latent"
weight = 0.2
"""
)
FAMILIES = {
    "ae": AE,
    "vae": VAE,
    "gan": GAN,
    "vagan": VAGAN,
    "larsen": LARSEN,
    "adversarial-ae": ADVERSARIAL_AE,
    "bigan": BIGAN,
    "two-critics": TWO_CRITICS,
}
