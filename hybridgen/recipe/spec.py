"""What a checked recipe is: frozen, complete, resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridgen.recipe.schedule import Schedule
from hybridgen.registry import Component


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line, "command line", or "default"."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Part:
    """A component in its place, with validated options; `inputs` rebinds what it asks for to other quantities.

    hold: a scalar quantity that leaves this part's update out where it is above 0.
    """

    path: str
    component: Component
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    hold: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """The last part of its path: the NAME of [loss.NAME]."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Critic(Part):
    """A discriminator and what it judges: role -> quantity of the real batch, and of each generated one."""

    real: Mapping[str, str]
    fake: tuple[Mapping[str, str], ...]
    augment: Part | None = None


@dataclass(frozen=True)
class Loss(Part):
    weight: Schedule
    discriminator_weight: Schedule
    trains: Mapping[str, float] | None
    discriminator: str | None
    every: int
    balance: tuple[str, ...]
    balance_limit: float


@dataclass(frozen=True)
class Metric(Part):
    discriminator: str | None = None
    features: str | None = None


@dataclass(frozen=True)
class Data:
    component: Component
    options: Mapping[str, Any]
    batch_size: int
    validation: float
    split_seed: int
    flip: bool


@dataclass(frozen=True)
class Optim:
    """One player's optimiser."""

    use: str
    lr: Schedule
    betas: tuple[float, float]
    eps: float
    momentum: float
    weight_decay: float
    clip_norm: float | None
    clip_value: float | None
    clip_weights: float | None


@dataclass(frozen=True)
class Train:
    steps: int
    seed: int
    device: str
    threads: int | str
    precision: str
    layout: str
    compile: bool | str
    ema: float
    critic_steps: int
    updates: str
    accumulate: int
    nonfinite: str
    deterministic: bool
    log_every: int | str
    checkpoint_every: int | str
    evaluate_every: int | str
    samples_every: int | str
    keep: int


@dataclass(frozen=True)
class Evaluate:
    """What metrics see: the split, how many generated samples, which noise; and for how many seconds at most."""

    best: str | None
    split: str
    samples: int | None
    seed: int
    limit: float | None


@dataclass(frozen=True)
class Report:
    samples: int


@dataclass(frozen=True)
class Recipe:
    """A recipe as it will run. `tree` is the complete plain form, `origins` says where each leaf was written."""

    name: str
    family: str
    description: str
    data: Data
    encoder: Part | None
    decoder: Part | None
    latent: Part | None
    critics: Mapping[str, Critic]
    losses: Mapping[str, Loss]
    quantities: Mapping[str, Part]
    metrics: Mapping[str, Metric]
    features: Mapping[str, Part]
    default_features: Part | None  # where [features] names none
    reporters: Mapping[str, Part]
    optim: Mapping[str, Optim]
    train: Train
    report: Report
    players: Mapping[str, tuple[str, ...]]
    evaluate: Evaluate
    tree: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, Origin] = field(repr=False)
    sources: tuple[tuple[Path, str], ...] = field(repr=False)

    def parts(self) -> Iterator[Part]:
        """Every table that names a component, the data aside, in the recipe's order; augmentations after their critics."""
        critics = (part for critic in self.critics.values() for part in (critic, critic.augment))
        keyed = (self.losses, self.quantities, self.metrics, self.features, self.reporters)
        named = (part for table in keyed for part in table.values())
        return (part for part in (self.encoder, self.decoder, self.latent, *critics, *named) if part is not None)

    def inputs_of(self, path: str) -> Mapping[str, str]:
        """What the recipe rebinds for the part at `path`; nothing where there is no such part."""
        networks = (self.latent, self.encoder, self.decoder)
        keyed = (*self.critics.values(), *self.losses.values(), *self.quantities.values())
        return next((part.inputs for part in (*networks, *keyed) if part is not None and part.path == path), {})

    def where(self, path: str) -> str:
        """Where `path` ("loss.kl.weight"), or the nearest table around it, was written."""
        keys = path.split(".")
        if keys[0] == "discriminator" and path not in self.origins:  # a bare [discriminator] is [discriminator.main]
            keys = [k for k in keys if k != "main"]
        while keys:
            origin = self.origins.get(".".join(keys))
            if origin is not None and origin.source != "default":
                return str(origin)
            keys.pop()
        return str(next(iter(self.sources), ("",))[0] or self.name)
