"""The conformance kit: a fault of each sort is caught, with words from which the mend is plain; what is sound passes."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import SkipTest

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.cli import main
from hybridgen.data import Arrays, SampleSpec
from hybridgen.registry import load_registry
from hybridgen.testing import BY_KIND, Check, CheckFailed, checks

Positive = Annotated[float, Field(gt=0, description="how much")]


def checked(kind: str, component: Any, name: str, **options: Any) -> Check:
    """One check of one component, registered for the moment."""

    @hookimpl
    def register_components(register: Any) -> None:
        getattr(register, kind)("it", component)

    registry = load_registry(extra={"planted": SimpleNamespace(register_components=register_components)})
    given = {f"{kind}:it": options} if options else None
    found = checks("planted", registry=registry, options=given, only=[f"{kind}:it"])
    return next(check for check in found if check.name == name)


# -- sound components, from which the faulty ones differ by one thing ------------------------------------------------------


class Critic(nn.Module):
    """A sound discriminator of two layers."""

    def __init__(self, judged_shape: tuple[int, ...], *, width: Annotated[int, Field(ge=1, description="units")] = 4) -> None:
        super().__init__()
        size = 1
        for side in judged_shape:
            size *= side
        self.first = nn.Linear(size, width)
        self.last = nn.Linear(width, 1)

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.first(x.flatten(1)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self.features(x)
        return self.last(h).squeeze(1), [h]


class Smooth(nn.Module):
    """A sound loss with a state of its own."""

    def __init__(self, *, power: Positive = 1.0) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (x - recon).abs().pow(self.power).flatten(1).sum(1).mean()

    def update(self, x: Tensor) -> None:
        self.average.lerp_(x.mean(), 0.1)


class Mean:
    """A sound metric: the mean of what is generated."""

    unit = "model-space units"
    higher_is_better = None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, x: Tensor) -> None:
        self.total += float(x.sum())
        self.count += x.numel()

    def compute(self) -> float:
        return self.total / max(self.count, 1)


class Bars:
    """Sound data: bars that are the label."""

    def describe(self) -> SampleSpec:
        return SampleSpec("image", (1, 8, 8), 40, low=0, high=255, levels=256, activation="tanh", classes=("a", "b"))

    def load(self) -> dict[str, Arrays]:
        label = torch.arange(40) % 2
        return {"train": Arrays((label[:, None, None, None] * 255).expand(40, 1, 8, 8).to(torch.uint8), label)}


class Listener:
    """A sound reporter."""

    def event(self, event: dict[str, Any]) -> None:
        self.last = event["event"]


def grain(x: Tensor, noise: Tensor, *, sigma: Positive = 0.1) -> Tensor:
    """A sound provider: x with grain."""
    return x + sigma * noise


class Brighter(nn.Module):
    """A sound augmentation: each sample brighter by an amount of its own, in training."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()

    def forward(self, x: Tensor, uniform: Tensor) -> Tensor:
        return x + 0.1 * uniform.reshape(-1, *[1] * (x.ndim - 1)) if self.training else x


SOUND = [
    ("discriminator", Critic),
    ("loss", Smooth),
    ("metric", Mean),
    ("data", Bars),
    ("reporter", Listener),
    ("provider", grain),
    ("provider", Brighter),
]


@pytest.mark.parametrize(("kind", "component"), SOUND, ids=lambda v: getattr(v, "__name__", v))
def test_what_is_sound_passes(kind: str, component: Any) -> None:
    for function in BY_KIND[kind]:
        with contextlib.suppress(SkipTest if kind == "provider" else ()):
            checked(kind, component, function.__name__)()


# -- faults ----------------------------------------------------------------------------------------------------------------


class Undocumented(Smooth):
    pass


Undocumented.__doc__ = None


class Undescribed(Smooth):
    """A loss whose option says nothing of itself."""

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__(power=power)


class OutOfBounds(Smooth):
    """A loss whose default breaks its own bounds."""

    def __init__(self, *, power: Positive = -1.0) -> None:
        super().__init__(power=abs(power))


class Untyped(Smooth):
    """A loss with an option of no type."""

    def __init__(self, *, power=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(power=power)


class Unwritable(Smooth):
    """A loss with an option that TOML can't hold."""

    def __init__(self, *, power: Annotated[Any, Field(description="anything")] = ...) -> None:
        super().__init__()


class Vector(Smooth):
    """A loss that gives a value a sample."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (x - recon).abs().flatten(1).sum(1)


class Picky(Critic):
    """A critic that breaks on what is no picture."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        if len(judged_shape) != 3:
            raise TypeError("a picture has three sides")
        super().__init__(judged_shape)


class NoFeatures(Critic):
    """A critic that forgets its features."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0], None


class Mixed(Critic):
    """A critic that mixes types under autocast."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = nn.functional.silu(self.first(x.flatten(1)))
        if h.dtype != torch.float32:
            h = h / 0.0
        return self.last(h).squeeze(1), [h]


class Left(Critic):
    """A critic with a tensor that no move takes along."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__(judged_shape)
        self.scale = torch.ones(1)


class Unused(Critic):
    """A critic with a layer that nothing uses."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__(judged_shape)
        self.spare = nn.Linear(2, 2)


COMMON = nn.Linear(4, 1)


class Common(Critic):
    """A critic whose last layer is every critic's."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__(judged_shape)
        if not self.first.weight.is_meta:
            self.last = COMMON


class Drawing(Critic):
    """A critic that draws from Python's random state."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self.features(x) * random.random()
        return self.last(h).squeeze(1), [h]


class Coupled(Critic):
    """A critic that sees the mean of its batch and doesn't say so."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self.features(x)
        h = h - h.mean(0)
        return self.last(h).squeeze(1), [h]


class Twins(Critic):
    """A critic with one tensor under two names."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__(judged_shape)
        self.again = nn.Linear(4, 1)
        self.again.weight = self.last.weight


class Forgetful(Critic):
    """A critic whose result depends on what is in no state."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__(judged_shape)
        self.register_buffer("offset", torch.rand(1), persistent=False)
        self.made = id(self) % 997

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, features = super().forward(x)
        return logits + float(self.made), features


class Uncopied(Critic):
    """A critic that holds the result of a computation."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, features = super().forward(x)
        self.__dict__["last_logits"] = logits
        return logits, features


class Looking(Critic):
    """A critic that looks at its values."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self.features(x)
        if x.device.type != "meta" and float(h.detach().abs().max()) > 100:
            h = h / 2
        return self.last(h).squeeze(1), [h]


class Detaching(Critic):
    """A critic that can't be differentiated at its samples."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = nn.functional.silu(self.first(x.detach().flatten(1)) + 0 * x.flatten(1).sum(1, keepdim=True))
        return self.last(h).squeeze(1), [h]


class Infinite(Smooth):
    """A loss that is no number where the model is right."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (0 * (x - recon)).sum().log() + recon.mean()


class Summed(Smooth):
    """A loss that sums over the batch."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (x - recon).abs().sum()


class Remembering(Smooth):
    """A loss whose state is a Python number."""

    seen = 0

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return super().forward(x, recon) * (1 + self.seen)

    def update(self, x: Tensor) -> None:
        self.seen += 1


class Meddling(Smooth):
    """A loss that changes the reconstruction that others see."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        with torch.no_grad():
            recon.mul_(0.5)
        return super().forward(x, recon)


class Reading(Smooth):
    """A loss that reads its value."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        value = super().forward(x, recon)
        if not value.is_meta and float(value.detach()) < 0:
            raise AssertionError
        return value


def dice(x: Tensor) -> Tensor:
    """A provider that draws for itself."""
    return x + torch.randn_like(x)


class Darker(Brighter):
    """An augmentation that is at work in eval mode as well."""

    def forward(self, x: Tensor, uniform: Tensor) -> Tensor:
        return x - 0.1 * uniform.reshape(-1, *[1] * (x.ndim - 1))


class MeanOfMeans(Mean):
    """A metric that weighs batches alike."""

    def update(self, x: Tensor) -> None:
        self.total += float(x[:, :, :4].mean())
        self.count += 1


class LastBatch(Mean):
    """A metric that keeps what it saw last."""

    def update(self, x: Tensor) -> None:
        self.total, self.count = float(x[-1].mean()), 1


class Miscounted(Bars):
    """Data that count wrong."""

    def load(self) -> dict[str, Arrays]:
        whole = super().load()["train"]
        return {"train": whole.subset(torch.arange(39))}


class Brightest(Bars):
    """Data beyond what they describe."""

    def describe(self) -> SampleSpec:
        return SampleSpec("image", (1, 8, 8), 40, low=0, high=16, levels=17, activation="tanh", classes=("a", "b"))


class Mislabelled(Bars):
    """Labels of more classes than there are."""

    def load(self) -> dict[str, Arrays]:
        whole = super().load()["train"]
        return {"train": Arrays(whole.x, torch.arange(40) % 3)}


class Shuffled(Bars):
    """Data in another order each time."""

    def load(self) -> dict[str, Arrays]:
        return {"train": super().load()["train"].subset(torch.randperm(40))}


class Directionless:
    """A metric that doesn't say which way is better."""

    unit = "nats"

    def reset(self) -> None: ...

    def update(self, x: Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Skewed:
    """A posterior whose KL is one number for the whole batch."""

    mean: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + noise

    def kl(self, prior: Any, z: Tensor) -> Tensor:
        return z.square().mean()


@dataclass(frozen=True)
class Standard:
    """N(0, I)."""

    def sample(self, noise: Tensor) -> Tensor:
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1)


class Lumped(nn.Module):
    """A latent whose posterior counts its KL once a batch."""

    code_shape = (3,)
    z_shape = (3,)

    def posterior(self, code: Tensor) -> Skewed:
        return Skewed(code)

    def prior(self) -> Standard:
        return Standard()


class Hooked(Smooth):
    """A loss that listens to every layer of every network."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0
        handle = nn.modules.module.register_module_forward_hook(self.hear)
        HOOKS.append(handle)

    def hear(self, *_: Any) -> None:
        self.heard += 1


HOOKS: list[Any] = []


@pytest.fixture(autouse=True)
def no_hook_stays() -> Iterator[None]:
    yield
    while HOOKS:
        HOOKS.pop().remove()


class Deaf(Listener):
    """A reporter that knows its events by heart."""

    def event(self, event: dict[str, Any]) -> None:
        {"start": 0, "row": 1, "evaluation": 2, "samples": 3, "checkpoint": 4, "best": 5, "health": 6, "end": 7}[event["event"]]


class Writing(Listener):
    """A reporter that changes the record."""

    def event(self, event: dict[str, Any]) -> None:
        event["time"] = 1.0


class Wordless:
    """Features that say nothing of themselves."""

    classes = 0

    def __init__(self, sample_shape: tuple[int, ...]) -> None: ...


class Odd(nn.Module):
    """Features with logits for no classes."""

    classes = 0

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()

    def describe(self) -> dict[str, Any]:
        return {}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.flatten(1)


FAULTS: list[tuple[str, Any, str, str]] = [
    ("loss", "nowhere.losses:Missing", "imports", "can't be imported"),
    ("loss", Untyped, "signature", "option `power` has no type hint"),
    ("loss", Undocumented, "documented", "has no docstring"),
    ("loss", Undescribed, "documented", "without a description: power"),
    ("loss", OutOfBounds, "defaults", "power = -1.0"),
    ("loss", Unwritable, "round_trip", "power = Ellipsis can't be written as TOML"),
    ("loss", Vector, "builds", "expected a scalar tensor"),
    ("discriminator", Picky, "shapes", "a picture has three sides"),
    ("discriminator", NoFeatures, "shapes", "a network returned NoneType"),
    ("discriminator", Mixed, "autocast", "after a step in bfloat16"),
    ("discriminator", Left, "moves", "neither parameters nor buffers: scale"),
    ("discriminator", Unused, "gradients", "no gradient reaches: spare.weight, spare.bias"),
    ("discriminator", Common, "unshared", "shared by two instances: last."),
    ("discriminator", Drawing, "seeded", "two evaluations under one seed differ"),
    ("discriminator", Coupled, "batch_mates", "another result beside other samples"),
    ("discriminator", Twins, "saved", "saving its state as safetensors raises"),
    ("discriminator", Forgetful, "saved", "gives another result"),
    ("discriminator", Uncopied, "copied", "copying it raises"),
    ("discriminator", Looking, "traceable", "on tensors without values"),
    ("discriminator", Looking, "compiles", "tracing a step as whole graphs raises"),
    ("discriminator", Detaching, "twice", "depends on no weight"),
    ("loss", Infinite, "finite", "not finite"),
    ("loss", Summed, "duplicated", "on the batch twice over"),
    ("loss", Meddling, "routed", "gradient"),
    ("loss", Hooked, "free_at_zero", "with weight 0 a step calls hear"),
    ("loss", Reading, "unread", "values from the device"),
    ("loss", Remembering, "resumes", "after resuming these differ"),
    ("provider", dice, "repeatable", "give different results"),
    ("provider", Darker, "identity", "in eval mode"),
    ("latent", Lumped, "distributions", "one finite number in nats for each sample"),
    ("metric", Directionless, "stated", "it has no higher_is_better"),
    ("metric", MeanOfMeans, "orderless", "another batch sizes"),
    ("metric", LastBatch, "orderless", "another order"),
    ("data", Miscounted, "described", "counts 40 training examples, `load` brings 39"),
    ("data", Brightest, "described", "values lie in 0 to 255, described as 0 to 16"),
    ("data", Mislabelled, "described", "labels lie in 0 to 2, with 2 classes described"),
    ("data", Shuffled, "reproducible", "two loads differ"),
    ("reporter", Deaf, "listens", "of-a-later-version"),
    ("reporter", Writing, "listens", "it changed the event"),
    ("features", Wordless, "embeds", "no method `describe`"),
    ("features", Odd, "embeds", "classes = 0"),
]


@pytest.mark.parametrize(("kind", "component", "name", "words"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_a_planted_fault_is_caught_in_words(kind: str, component: Any, name: str, words: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        checked(kind, component, name)()
    told = str(caught.value)
    assert words in told
    assert "Expected: " in told
    assert "Why: " in told
    assert "Mend: " in told


def test_there_is_a_planted_fault_for_each_check() -> None:
    asked = {function.__name__ for functions in BY_KIND.values() for function in functions}
    assert asked - {name for _, _, name, _ in FAULTS} == set()


# -- the kit as a whole ------------------------------------------------------------------------------------------------------

BAD = '''
from hybridgen import hookimpl
from torch import Tensor, nn


class Summed(nn.Module):
    """A loss that sums over the batch."""

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return (x - recon).abs().sum()


@hookimpl
def register_components(register):
    register.loss("summed", Summed)
    register.loss("absent", "nowhere:Missing")
'''


def test_the_command_counts_and_fails_with_the_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    with pytest.raises(SystemExit) as exit_:
        main(["check-plugin", "bad", "--plugin", str(file), "--check", "duplicated", "--check", "imports", "--check", "finite"])
    assert exit_.value.code == 2
    told = capsys.readouterr().out
    assert "bad: 6 checks: 2 passed, 2 skipped, 2 failed" in told
    assert "Mend: sum over each sample, average over the batch" in told
    assert "skipped 2 checks of loss:absent: `imports` failed" in told


def test_a_sound_plugin_leaves_the_command_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    with pytest.raises(SystemExit) as exit_:
        main(["check-plugin", "bad", "--plugin", str(file), "--only", "loss:summed", "--check", "imports", "--json"])
    assert exit_.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"passed": ["loss:summed-imports"], "skipped": {}, "failed": {}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check-plugin", "lossses"], "there is no plugin 'lossses'"),
        (["check-plugin", "losses", "--only", "loss:klt"], "plugin 'losses' has no component 'loss:klt'"),
        (["check-plugin", "losses", "--check", "speed"], "there is no check speed; there are: "),
        (["check-plugin", "data", "--set", "path=x"], "expected KIND:NAME.OPTION=VALUE"),
    ],
)
def test_what_there_isn_t_is_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_options_that_are_wrong_are_told_and_those_that_lack_are_skipped() -> None:
    def made(**options: Any) -> Check:
        given = {"data:images": options} if options else None
        return next(c for c in checks("data", options=given, only=["data:images"]) if c.name == "described")

    with pytest.raises(SkipTest, match="it can't be made without path"):
        made()()
    with pytest.raises(CheckFailed, match="there is no option `pth`"):
        made(path="x", pth="y")()


def test_a_clone_in_the_working_directory_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hybridgen").mkdir()
    monkeypatch.chdir(tmp_path)
    next(check for check in checks("losses") if check.name == "light")()
