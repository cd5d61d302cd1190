"""The tables of a recipe that belong to hybridgen itself, each as a signature: the same schema as a component's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Interval = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?s$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def data(
    *,
    batch_size: Annotated[int, Field(ge=1, description="examples a step")] = 64,
    validation: Annotated[Fraction, Field(description="share held out, where the data bring no split of their own")] = 0.1,
    split_seed: Annotated[int, Field(ge=0, description="which examples are held out; apart from train.seed")] = 0,
    flip: Annotated[bool, Field(description="mirror pictures left to right at random")] = False,
) -> None:
    """What every kind of data has."""


def optim(
    *,
    use: Literal["adam", "adamw", "sgd"] = "adam",
    betas: Annotated[tuple[Fraction, Fraction], Field(description="adam's averages; [0.5, 0.99] suits GANs")] = (0.9, 0.999),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    momentum: Annotated[Fraction, Field(description="sgd's")] = 0.0,
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
    clip_norm: Annotated[float | None, Field(gt=0, description="largest norm of a player's gradient")] = None,
    clip_value: Annotated[float | None, Field(gt=0, description="largest entry of a gradient")] = None,
    clip_weights: Annotated[
        float | None, Field(gt=0, description="largest entry of a weight after each update; the first WGAN's constraint: 0.01")
    ] = None,
) -> None:
    """One player's optimiser; its learning rate `lr` is a schedule."""


def train(
    *,
    steps: Annotated[int, Field(ge=1, description="generator updates")] = 2000,
    seed: Annotated[int, Field(ge=0, description="of initialisation, noise and data order")] = 0,
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")] = "auto",
    threads: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(description="CPU threads; auto: one where networks are small")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16", "fp16"], Field(description="of the networks; all else is float32")
    ] = "auto",
    layout: Annotated[
        Literal["auto", "channels-last", "contiguous"], Field(description="of pictures and convolutions in memory")
    ] = "auto",
    compile: Annotated[Literal["auto"] | bool, Field(description="torch.compile for every phase of the step")] = "auto",
    ema: Annotated[Fraction, Field(description="decay of the generator side's moving average; 0 = none")] = 0.999,
    critic_steps: Annotated[int, Field(ge=1, description="discriminator updates for each generator update")] = 1,
    updates: Annotated[
        Literal["alternating", "simultaneous"],
        Field(description="simultaneous: one evaluation of the critic serves both players; cheaper, another algorithm"),
    ] = "alternating",
    accumulate: Annotated[int, Field(ge=1, description="micro-batches that a batch is split into, to save memory")] = 1,
    nonfinite: Annotated[Literal["stop", "skip"], Field(description="what a NaN or infinite value does to the run")] = "stop",
    deterministic: Annotated[bool, Field(description="deterministic algorithms on CUDA, for bitwise resume there")] = False,
    log_every: Annotated[Interval, Field(description='steps, or seconds as "30s"')] = 50,
    checkpoint_every: Annotated[Interval, Field(description='steps, or seconds as "30s"')] = 500,
    evaluate_every: Annotated[Interval, Field(description='steps, or seconds as "30s"')] = 1000,
    samples_every: Annotated[Interval, Field(description='steps, or seconds as "30s"')] = 500,
    keep: Annotated[int, Field(ge=1, description="newest checkpoints kept, beside the best")] = 2,
) -> None:
    """The run."""


def report(*, samples: Annotated[int, Field(ge=1, le=1024, description="samples in a picture")] = 36) -> None:
    """Pictures and report."""


def evaluate(
    *,
    best: Annotated[
        str | None, Field(description='metric that names the best checkpoint: "elbo"; by default one that suits the model')
    ] = None,
    split: Annotated[Literal["validation", "train"], Field(description="which examples metrics see")] = "validation",
    samples: Annotated[
        int | None,
        Field(ge=2, description="generated samples for metrics; by default as many as examples, at most 10,000"),
    ] = None,
    seed: Annotated[int, Field(ge=0, description="of the evaluation's noise, subsets and folds; apart from train.seed")] = 0,
    limit: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]+(\.[0-9]+)?s$",
            description="longest evaluation, features aside; metrics not done by then have no value",
        ),
    ] = "300s",
) -> None:
    """How metrics are used; `train.evaluate_every` says when."""


def plugins(
    *, require: Annotated[tuple[str, ...], Field(description='plugin packages, as pip names them: "hybridgen-foo>=0.2"')] = ()
) -> None:  # fmt: skip
    """What must be installed."""


def players(
    *,
    generator: Annotated[tuple[str, ...], Field(description="parts moved to the generator side")] = (),
    discriminator: Annotated[tuple[str, ...], Field(description="parts moved to the discriminator side")] = (),
) -> None:
    """Who a part belongs to, where it isn't the usual player."""


def loss(
    *,
    discriminator: Annotated[str | None, Field(description="which discriminator it speaks of, where there are several")] = None,
    every: Annotated[int, Field(ge=1, description="join every k-th update, k times as strong")] = 1,
    balance: Annotated[
        tuple[str, ...],
        Field(description="losses that its gradient at the decoder's last layer is scaled to, before `weight` counts (VQGAN)"),
    ] = (),
    balance_limit: Annotated[float, Field(gt=0, description="largest factor that `balance` may give")] = 1e4,
) -> None:
    """What every loss has, beside `weight`, `discriminator_weight` and `trains`."""


def metric(
    *,
    discriminator: Annotated[str | None, Field(description="which discriminator it asks, where there are several")] = None,
    features: Annotated[str | None, Field(description="through which [features.NAME] it sees, where there are several")] = None,
) -> None:
    """What every metric has."""
