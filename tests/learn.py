"""Train the shipped recipes over seeds, measure what they learned, and keep the figures in `tests/learned.json`.

    python tests/learn.py                            every study, seeds 0, 1, 2, two at a time; what is there is not repeated
    python tests/learn.py vagan r3gan-grid --again   some of them, anew
    python tests/learn.py --page                     the table of recipes/README.md from the figures

A study is a recipe with overrides and what it must reach. `test_learning.py` holds one seed of them to the same bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parent / "learned.json"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Bound:
    """A figure of a trained model, and what it must be: `at_least` or `at_most`, or neither where it is only recorded."""

    name: str
    of: Callable[[Any], float]
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        checks = ((self.at_least, operator.ge), (self.at_most, operator.le))
        return math.isfinite(value) and all(compare(value, bound) for bound, compare in checks if bound is not None)


@dataclass(frozen=True, eq=False)  # one run is no other
class Trained:
    """A finished run: its model with averaged weights, and the metrics of its last evaluation."""

    model: Any
    values: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    recipe: str
    bounds: tuple[Bound, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)


def run(name: str, seed: int, folder: Path, extra: Mapping[str, Any] | None = None) -> Trained:
    """Train one study. Returns the model as `hybridgen.load` gives it."""
    import hybridgen

    study = STUDIES[name]
    outcome = hybridgen.train(study.recipe, {**study.overrides, "train.seed": seed, **(extra or {})}, runs=folder)
    return Trained(hybridgen.load(outcome.path), outcome.values)


def untrained(name: str, folder: Path) -> Trained:
    """The same after one step with learning rates of 0."""
    return run(name, 0, folder, {"train.steps": 1, "optim.lr": 0.0, "optim.discriminator.lr": 0.0, "train.ema": 0.0})


# -- judges --------------------------------------------------------------------------------------------------------------


@cache
def judge() -> Any:
    """Ten nearest real digits, weighted by distance: its confidence is how alike a sample is to digits of one class.

    On held-out real digits the mean top confidence is 0.95, on uniform noise 0.61, on the mean of two digits 0.72.
    """
    from sklearn.neighbors import KNeighborsClassifier

    from hybridgen_data.digits import Digits

    arrays = Digits().load()["train"]
    return KNeighborsClassifier(10, weights="distance").fit(scaled(Digits().describe().to_model(arrays.x)), arrays.label)


def scaled(x: Any) -> Any:
    return ((x + 1) / 2).flatten(1).numpy()


def judged(samples: Any) -> tuple[float, float]:
    """Mean top confidence of samples, and the share of the rarest class."""
    import numpy as np

    chances = judge().predict_proba(scaled(samples))
    shares = np.bincount(chances.argmax(1), minlength=10) / len(samples)
    return float(chances.max(1).mean()), float(shares.min())


@cache
def splits() -> Any:
    """The digits as the recipes split them."""
    from hybridgen.data import open_data
    from hybridgen.recipe import load_recipe
    from hybridgen_data.digits import Digits

    return open_data(Digits(), load_recipe("ae-digits").data)


@cache
def digits() -> tuple[Any, Any]:
    """Training and held-out digits in model space."""
    from hybridgen_data.digits import Digits

    spec = Digits().describe()
    train, held_out = (spec.to_model(splits()[name].x) for name in ("train", "validation"))
    return train, held_out


@cache
def ignoring_z() -> float:
    """Held-out log-likelihood in nats of the best decoder that ignores z, under the recipes' likelihood.

    That is a Gaussian at each pixel's mean with one learned scale, the root of the mean variance: a diagonal Gaussian
    with a variance a pixel has no likelihood here, for some pixels of the training digits are always black.
    """
    train, held_out = digits()
    mean = train.mean(0)
    variance = float((train - mean).square().mean())
    squared = (held_out - mean).square().flatten(1).sum(1)
    size = train[0].numel()
    return float((-0.5 * squared / variance - 0.5 * size * math.log(2 * math.pi * variance)).mean())


@cache
def error_of_pca(dim: int) -> float:
    """Squared error of held-out digits through `dim` principal components of the others."""
    from sklearn.decomposition import PCA

    train, held_out = digits()
    pca = PCA(dim).fit(train.flatten(1).numpy())
    flat = held_out.flatten(1).numpy()
    return float(((pca.inverse_transform(pca.transform(flat)) - flat) ** 2).mean())


def against_pca(dim: int) -> Callable[[Trained], float]:
    """Squared error of held-out reconstructions, as a multiple of that of PCA with `dim` components."""

    def ratio(trained: Trained) -> float:
        held_out = digits()[1]
        recon = trained.model.reconstruct(held_out, label=splits()["validation"].label)
        return float((recon - held_out).square().mean()) / error_of_pca(dim)

    return ratio


@lru_cache(maxsize=1)
def judged_samples(trained: Trained) -> tuple[float, float]:
    return judged(trained.model.sample(1000, seed=0))


def obedience(trained: Trained) -> float:
    """Share of samples in which the judge sees the class that was asked for, 100 a class."""
    import torch

    asked = torch.arange(10).repeat_interleave(100)
    seen = judge().predict(scaled(trained.model.sample(1000, seed=0, label=asked)))
    return float((seen == asked.numpy()).mean())


def found_classes(trained: Trained) -> float:
    """Adjusted mutual information of InfoGAN's category, read off held-out digits, and their classes."""
    from sklearn.metrics import adjusted_mutual_info_score

    codes = trained.model.encode(digits()[1])
    category = codes[:, (codes != 0).any(0)][:, :10].argmax(1)  # z is noise, of which Q says 0, then the category
    return float(adjusted_mutual_info_score(splits()["validation"].label.numpy(), category.numpy()))


MODES = {"ring": 8, "grid": 25}


@lru_cache(maxsize=1)
def modes(trained: Trained, shape: str) -> tuple[float, int, int]:
    """Share of 2,000 samples within three standard deviations of a mode, modes with at least 20 of them, and all modes."""
    import torch

    from hybridgen_data.toy2d import Toy2d

    data = Toy2d(shape=shape, modes=MODES[shape])
    distance, mode = torch.cdist(trained.model.sample(2000, seed=0), data.modes()).min(1)
    near = distance < 3 * data.std
    count = torch.bincount(mode[near], minlength=len(data.modes()))
    return float(near.float().mean()), int((count >= 20).sum()), len(count)


def likelihood(trained: Trained) -> float:
    """Held-out log p(x), nearly: the importance-weighted bound of 64 samples, above what ignoring z gives."""
    return -trained.values["importance-weighted.nll"] - ignoring_z()


def value(name: str) -> Callable[[Trained], float]:
    return lambda trained: float(trained.values[name])


# -- what each must reach ------------------------------------------------------------------------------------------------

POINTS = {
    "data.use": "toy2d",
    "data.batch_size": 256,
    "decoder.use": "mlp",
    "decoder.width": 128,
    "decoder.depth": 3,
    "decoder.activation": "relu",
    "discriminator.use": "mlp",
    "discriminator.width": 128,
    "discriminator.depth": 3,
    "latent.dim": 2,
    "metric.fid": False,
    "metric.mixture-modes.use": "mixture-modes",
    "evaluate.best": "mixture-modes.good",
    "evaluate.samples": 2000,
    "optim.lr": {"from": 1e-3, "to": 0.0, "over": 1.0},
    "train.steps": 6000,
    "train.evaluate_every": 2000,
}
"""Overrides that put a GAN of pictures on points of the plane."""

R3GAN = {"loss.flat.every": 1, "loss.flat.gamma": 0.02}
WGAN_GP = {"train.steps": 3000, "train.critic_steps": 3, "loss.penalty.discriminator_weight": 0.1}
"""On points the penalty counts less, as in the authors' own examples: distances there are short, slopes steep."""
FASTER = {"optim.lr": {"from": 2e-3, "to": 0.0, "over": 1.0}}
LONGER = {**FASTER, "train.steps": 9000, "train.critic_steps": 2, "loss.penalty.discriminator_weight": 0.05}
"""25 modes: with WGAN_GP two thirds of the samples are good."""

WIDE = {"decoder.width": 256, "discriminator.width": 256}
"""The leaps between many modes, and the edges of all, want a network that can be steep."""

BROAD = {"encoder.width": 256, "decoder.width": 256}
LONG = {**FASTER, **BROAD, "train.steps": 9000, "train.evaluate_every": 3000}
"""25 modes for a hybrid, or 8 for a critic of pairs."""

ENCODED = {
    **{key: given for key, given in POINTS.items() if not key.startswith("discriminator.")},
    "encoder.use": "mlp",
    "encoder.width": 128,
    "encoder.depth": 3,
    "encoder.activation": "relu",
}
"""The same for a hybrid, whose critics have tables of their own."""


def critic(path: str = "discriminator", *, use: str = "mlp", width: int = 128, gamma: float = 0.01) -> dict[str, Any]:
    """Overrides that make a critic of pictures one of points: flat at samples, but not so flat that it sees no edges."""
    name = {} if path == "discriminator" else {"loss.flat.discriminator": path.rpartition(".")[2]}
    shape = {f"{path}.use": use, f"{path}.width": width, f"{path}.depth": 3}
    return {**shape, "loss.flat.use": "r1-r2", "loss.flat.gamma": gamma, **name}


PICTURES = critic("discriminator.pictures")
JOINT = {**critic(use="mlp-joint", width=256, gamma=0.005), "optim.betas": [0.0, 0.99]}
"""A game of pairs goes in circles with momentum: at 0.5, ALI on the ring had 0.95 good samples in one seed, 0.48 in another."""
ALPHA = {"loss.reconstruction.weight": 0.5, "loss.codes.weight": 0.2}
TWO = {"loss.reconstruction.learn_scale": False, "loss.reconstruction.scale": 0.15, "loss.pictures.weight": 40}

TOLD = {**critic(use="mlp-projection"), "encoder.use": "mlp-conditional", "decoder.use": "mlp-conditional"}
"""Every part is told the mode, as every part of a conditional recipe is told the class."""
CODES = {
    **critic("discriminator.codes", gamma=0.1),
    "loss.codes.weight": 0.5,
    "optim.betas": [0.0, 0.99],
    "train.steps": 3000,
}
INTROSPECTION = {
    "loss.introspection.scale": 0.125,
    "loss.introspection.alpha": 0.3,
    "loss.introspection.beta_neg": 3.0,
    "loss.introspection.gamma": 1.0,
    "loss.introspection.warm_up": 0.1,
    "train.steps": 4000,
}
"""Of modes 0.05 wide the ELBO is large: twice it, as in the paper, leaves an exponential of 0, and the encoder has no say."""


def error(at_most: float, dim: int = 16) -> Bound:
    return Bound("error / PCA's", against_pca(dim), at_most=at_most)


ABOVE = Bound("ELBO, nats above a decoder that ignores z", lambda t: t.values["elbo"] - ignoring_z(), at_least=10.0)
LIKELIHOOD = Bound("log p(x), nats above that decoder", likelihood, at_least=10.0)
FID = Bound("FID", value("fid"))
CLASSES = (
    Bound("confidence", lambda t: judged_samples(t)[0], at_least=0.75),
    Bound("rarest class", lambda t: judged_samples(t)[1], at_least=0.01),
    FID,
)


def good(shape: str, share: float | None = 0.9) -> tuple[Bound, ...]:
    """Bounds on points: the share of good samples, and all modes. share = None: only recorded."""
    every = MODES[shape]
    return (
        Bound("good samples", lambda t: modes(t, shape)[0], at_least=share),
        Bound("modes", lambda t: modes(t, shape)[1], at_least=None if share is None else every),
    )


def on(shape: str, recipe: str, *more: Mapping[str, Any], base: Mapping[str, Any] = POINTS, share: float | None = 0.9) -> Study:
    overrides = {**base, "data.shape": shape, "data.modes": MODES[shape]}
    for table in more:
        overrides |= table
    return Study(recipe, good(shape, share), overrides)


OBEDIENT = Bound("the class asked for", obedience, at_least=0.9)
MISMATCH = Bound("p-value, codes against prior", value("aggregate-mismatch.p-value"), at_least=0.01)

STUDIES: dict[str, Study] = {
    "ae-digits": Study("ae-digits", (error(0.6),)),
    "ae-mse": Study("ae-mse", (error(0.6),)),
    "ae-bce": Study("ae-bce", (error(0.6),)),
    "ae-denoising": Study("ae-denoising", (error(0.9), Bound("linear probe", value("linear-probe.accuracy"), at_least=0.9))),
    "vae-digits": Study(
        "vae-digits", (ABOVE, LIKELIHOOD, error(0.7)), {"metric.importance-weighted.use": "importance-weighted"}
    ),
    "vae-mlp": Study("vae-mlp", (ABOVE, error(0.8))),
    "vae-conv-2d": Study("vae-conv-2d", (ABOVE, error(0.9, 2))),
    "vae-mlp-2d": Study("vae-mlp-2d", (*good("ring", None), Bound("ELBO, nats", value("elbo")))),
    "beta-vae": Study("beta-vae", (ABOVE,)),
    "beta-tc-vae": Study("beta-tc-vae", (ABOVE,)),
    "factor-vae": Study("factor-vae", (ABOVE,)),
    "info-vae": Study("info-vae", (ABOVE, error(0.7))),
    "wae-mmd": Study("wae-mmd", (error(0.9, 8), Bound("MMD", value("aggregate-mismatch.mmd")))),
    "iwae": Study("iwae", (ABOVE, LIKELIHOOD)),
    "vamp-vae": Study("vamp-vae", (ABOVE, error(0.7))),
    "vq-vae": Study("vq-vae", (error(0.8), Bound("codes in use", value("codebook.usage"), at_least=0.5))),
    "cvae": Study("cvae", (ABOVE, OBEDIENT)),
    "gan-ring": Study("gan-ring", good("ring", 0.8)),
    "gan-nonsaturating": Study("gan-nonsaturating", good("ring", None)),
    "gan-minimax": Study("gan-minimax", good("ring", None)),
    "gan-minimax-grid": Study("gan-minimax", good("grid", None), {"data.shape": "grid", "data.modes": 25}),
    "gan-digits": Study("gan-digits", CLASSES),
    "gan-mlp": Study("gan-mlp", CLASSES),
    "dcgan": Study("dcgan", CLASSES),
    "lsgan": Study("lsgan", CLASSES),
    "hinge-sngan": Study("hinge-sngan", CLASSES),
    "wgan": Study("wgan", CLASSES),
    "wgan-gp": Study("wgan-gp", CLASSES),
    "wgan-gp-ring": on("ring", "wgan-gp", WIDE, WGAN_GP),
    "wgan-gp-grid": on("grid", "wgan-gp", WIDE, LONGER),
    "dragan": Study("dragan", CLASSES),
    "r3gan": Study("r3gan", CLASSES),
    "r3gan-ring": on("ring", "r3gan", R3GAN),
    "r3gan-grid": on("grid", "r3gan", WIDE, R3GAN, FASTER, {"train.steps": 8000}),
    "infogan": Study("infogan", (*CLASSES, Bound("AMI of code and class", found_classes, at_least=0.4))),
    "cgan-projection": Study("cgan-projection", (*CLASSES, OBEDIENT)),
    "improved-gan": Study("improved-gan", CLASSES),
    "vagan": Study("vagan", (*CLASSES, error(1.0))),
    "vagan-digits": Study("vagan-digits", (*CLASSES, error(0.8))),
    "vagan-mlp-2d": Study("vagan-mlp-2d", good("ring")),
    "vagan-mlp-2d-grid": Study(
        "vagan-mlp-2d", good("grid"), {"data.shape": "grid", "data.modes": 25, **WIDE, "train.steps": 9000}
    ),
    "vae-gan-larsen": Study("vae-gan-larsen", (*CLASSES, error(1.2))),
    "vae-gan-larsen-grid": on("grid", "vae-gan-larsen", critic(width=256, gamma=0.02), LONG, base=ENCODED),
    "vae-gan-larsen-ring": on("ring", "vae-gan-larsen", critic(gamma=0.02), base=ENCODED),
    "aae": Study("aae", (error(0.8, 8), MISMATCH, *CLASSES)),
    "aae-ring": on("ring", "aae", CODES, base=ENCODED, share=None),
    "aae-no-critic": Study(
        "aae",
        (Bound("p-value, codes against prior", value("aggregate-mismatch.p-value"), at_most=0.01),),
        {"discriminator": False, "loss.codes": False},
    ),
    "aae-supervised": Study("aae-supervised", (OBEDIENT, MISMATCH)),
    "bigan": Study("bigan", (*CLASSES, error(4.0))),
    "bigan-grid": on("grid", "bigan", JOINT, LONG, base=ENCODED),
    "bigan-ring": on("ring", "bigan", JOINT, LONG, base=ENCODED),
    "ali": Study("ali", (*CLASSES, error(4.0))),
    "ali-grid": on("grid", "ali", JOINT, LONG, base=ENCODED),
    "ali-ring": on("ring", "ali", JOINT, BROAD, {"train.steps": 8000, "train.evaluate_every": 4000}, base=ENCODED),
    "alpha-gan": Study("alpha-gan", (*CLASSES, error(1.0))),
    "alpha-gan-grid": on(
        "grid", "alpha-gan", critic("discriminator.pictures", width=256, gamma=0.005), ALPHA, LONG, base=ENCODED
    ),
    "alpha-gan-ring": on("ring", "alpha-gan", PICTURES, ALPHA, base=ENCODED),
    "vqgan": Study("vqgan", (error(1.0), Bound("codes in use", value("codebook.usage"), at_least=0.5))),
    "kl-autoencoder-patch": Study("kl-autoencoder-patch", (error(0.8),)),
    "soft-intro-vae": Study("soft-intro-vae", (*CLASSES, error(0.9))),
    "soft-intro-vae-ring": on("ring", "soft-intro-vae", INTROSPECTION, base=ENCODED, share=None),
    "cvae-gan": Study("cvae-gan", (*CLASSES, OBEDIENT, error(1.5))),
    "cvae-gan-grid": on("grid", "cvae-gan", TOLD, {"train.steps": 2500}, base=ENCODED),
    "cvae-gan-ring": on("ring", "cvae-gan", TOLD, {"train.steps": 1000}, base=ENCODED),
    "two-critics": Study("two-critics", (*CLASSES, error(1.0))),
    "two-critics-grid": on("grid", "two-critics", critic("discriminator.pictures", width=256), TWO, LONG, base=ENCODED),
    "two-critics-ring": on("ring", "two-critics", PICTURES, TWO, base=ENCODED),
}

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion_mnist"


def fashion(recipe: str, steps: int, *bounds: Bound, **overrides: Any) -> Study:
    """A recipe on Fashion-MNIST at 28x28, measured at its end: 10,000 test pictures, 5,000 samples, one classifier for all."""
    at_the_end = {f"train.{key}": steps for key in ("steps", "evaluate_every", "samples_every", "checkpoint_every")}
    data = {"data.use": "idx", "data.path": str(FASHION), "evaluate.samples": 5000}
    return Study(recipe, bounds, {**data, **at_the_end, **{key.replace("__", "."): given for key, given in overrides.items()}})


SMALL_VAE = {"encoder__width": 16, "decoder__width": 16}
SMALL_GAN = {"decoder__width": 16, "discriminator__width": 16, "metric__kid__use": "kid"}
SMALL_HYBRID = {**SMALL_VAE, **SMALL_GAN}
OF_SAMPLES = {"metric__fid__use": "fid", "metric__kid__use": "kid"}
ELBO = Bound("ELBO, nats", value("elbo"))
SQUARED = Bound("squared error a pixel", value("reconstruction-error"))
KID = Bound("KID", value("kid.mean"))

STUDIES |= {
    "fashion-vae-mlp": fashion("vae-mlp", 5000, ELBO, SQUARED, FID, KID, **OF_SAMPLES),
    # vagan without its critic
    "fashion-vae-digits": fashion("vae-digits", 2500, ELBO, SQUARED, FID, KID, **SMALL_VAE, **OF_SAMPLES),
    "fashion-vae-conv-2d": fashion("vae-conv-2d", 2500, ELBO, SQUARED, FID, KID, **SMALL_VAE, **OF_SAMPLES),
    "fashion-dcgan": fashion("dcgan", 3000, FID, KID, **SMALL_GAN),
    "fashion-wgan-gp": fashion("wgan-gp", 1000, FID, KID, **SMALL_GAN),
    # without normalisation it is slow at first: at the recipe's rate 1,500 steps end in the middle of a steep fall, at 34 to 84
    "fashion-r3gan": fashion("r3gan", 2000, FID, KID, **SMALL_GAN, optim__lr={"from": 2e-3, "to": 4e-4, "over": 1.0}),
    "fashion-vagan": fashion("vagan", 2500, ELBO, SQUARED, FID, KID, **SMALL_HYBRID),
    "fashion-vae-gan-larsen": fashion("vae-gan-larsen", 2000, SQUARED, FID, KID, **SMALL_HYBRID),
    "fashion-vqgan": fashion(
        "vqgan", 3000, SQUARED, Bound("rFID", value("rfid")), **SMALL_HYBRID, latent__halvings=2, metric__rfid__use="rfid"
    ),
}


# -- the page ------------------------------------------------------------------------------------------------------------

RECIPES = Path(__file__).parents[1] / "recipes"
PAGE = RECIPES / "README.md"
MARKS = ("<!-- figures: written by tests/learn.py --page -->", "<!-- end of figures -->")
FAMILIES = ("Autoencoders and VAEs", "GANs", "Hybrids")


def span(name: str, bound: str) -> str:
    """The figure over the recorded seeds: "0.43 to 0.45", or one number where they agree."""
    numbers = [seed[bound] for seed in recorded()[name].values() if bound in seed]
    if not numbers:
        return "not measured"
    low, high = (
        f"{n:.0f}" if abs(n) >= 100 else f"{n:.2g}" if abs(n) < 10 else f"{n:.3g}" for n in (min(numbers), max(numbers))
    )
    return low if low == high else f"{low} to {high}"


def measured_text(name: str) -> str:
    return ", ".join(f"{bound.name} {span(name, bound.name)}" for bound in STUDIES[name].bounds)


def lines_of(recipe: str) -> tuple[str, int, str]:
    """A recipe's parent, the lines in which it differs from it (names, comments and blank lines aside), its first comment."""
    text = (RECIPES / f"{recipe}.toml").read_text(encoding="utf-8").splitlines()
    own = [line for line in text if line.strip() and not line.startswith(("#", "name =", "family =", "extends ="))]
    parent = next((line.split('"')[1] for line in text if line.startswith("extends =")), "")
    return parent, len(own), text[0].removeprefix("# ").rstrip(".")


def minutes(name: str) -> str:
    seconds = [seed["seconds"] for seed in recorded()[name].values()]
    return f"{min(seconds) / 60:.1f}"  # the quickest seed: what else the machine did is no cost of the recipe


def page() -> str:
    """The figures of every recipe by family, and those on Fashion-MNIST."""
    from hybridgen.recipe.merge import merge
    from hybridgen.registry import load_registry

    known, registry = recorded(), load_registry()
    text = []
    files = sorted(path.stem for path in RECIPES.glob("*.toml"))
    families = {stem: merge(stem, (), registry).tree.get("family") for stem in files}
    for family in FAMILIES:
        text += [f"### {family}", "", "| recipe | what it is | parent, lines of its own | measured over seeds | min |"]
        text += ["|---|---|---|---|---|"]
        for stem in (s for s in files if families[s] == family):
            parent, own, what = lines_of(stem)
            studies = [n for n, s in STUDIES.items() if s.recipe == stem and n in known and not n.startswith("fashion-")]
            found = "; ".join(
                (f"{n.removeprefix(stem).lstrip('-')}: " if n != stem else "") + measured_text(n) for n in studies
            )
            of = f"{f'`{parent}`' if parent else 'none'}, {own}"
            text.append(f"| `{stem}` | {what} | {of} | {found or '-'} | {minutes(stem) if stem in known else '-'} |")
        text.append("")
    fashion_rows = [n for n in known if n.startswith("fashion-")]
    if fashion_rows:
        names = list(dict.fromkeys(key for n in fashion_rows for seed in known[n].values() for key in seed if key != "seconds"))
        text += ["### Fashion-MNIST at 28x28", "", f"| recipe | steps | {' | '.join(names)} | seeds | min |"]
        text += ["|" + "---|" * (len(names) + 4)]
        for n in sorted(fashion_rows):
            cells = [span(n, key) if any(key in seed for seed in known[n].values()) else "-" for key in names]
            steps = STUDIES[n].overrides["train.steps"]
            text.append(f"| `{n.removeprefix('fashion-')}` | {steps} | {' | '.join(cells)} | {len(known[n])} | {minutes(n)} |")
        text.append("")
    return "\n".join(text)


def write_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{page()}\n{MARKS[1]}{after}", encoding="utf-8")


# -- the script ----------------------------------------------------------------------------------------------------------


def figures_of(study: Study, trained: Trained) -> dict[str, float]:
    return {bound.name: bound.of(trained) for bound in study.bounds}


def missed(study: Study, figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that do not hold their bounds."""
    return {bound.name: figures[bound.name] for bound in study.bounds if not bound.holds(figures[bound.name])}


def measured(name: str, seed: int, runs: Path | None) -> dict[str, float]:
    """The figures of one study and seed, with the seconds that its training took."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        trained = run(name, seed, (runs or Path(folder)) / name, {"train.threads": 1})
        seconds = time.monotonic() - began
        return {**figures_of(STUDIES[name], trained), "seconds": seconds}


def recorded() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def record(name: str, seed: int, figures: Mapping[str, float]) -> None:
    known = recorded()
    known.setdefault(name, {})[str(seed)] = {key: float(f"{number:.4g}") for key, number in figures.items()}
    FIGURES.write_text(json.dumps({key: known[key] for key in STUDIES if key in known}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="names in STUDIES; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="studies at a time, of one thread each")
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    parser.add_argument("--page", action="store_true", help="write the tables of recipes/README.md, train nothing")
    parser.add_argument("--again", action="store_true", help="repeat what is recorded")
    given = parser.parse_args()
    if given.page:
        write_page()
        return
    unknown = sorted(set(given.studies) - STUDIES.keys())
    if unknown:
        parser.error(f"there is no study {', '.join(unknown)}; there are: {', '.join(STUDIES)}")
    known = recorded()
    here = [name for name in STUDIES if FASHION.is_dir() or not name.startswith("fashion-")]
    wanted = [
        (name, seed)
        for seed in given.seeds
        for name in given.studies or here
        if given.again or str(seed) not in known.get(name, {})
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        running = {pool.submit(measured, name, seed, given.runs): (name, seed) for name, seed in wanted}
        for done in as_completed(running):
            name, seed = running[done]
            try:
                figures = done.result()
            except Exception as error:  # one study that fails costs no other
                print(f"{name} seed {seed}: {type(error).__name__}: {error}", flush=True)
                continue
            record(name, seed, figures)
            short = missed(STUDIES[name], figures)
            shown = "  ".join(f"{key} {number:.3g}" for key, number in figures.items())
            print(f"{name} seed {seed}: {shown}{'  MISSED ' + ', '.join(short) if short else ''}", flush=True)


if __name__ == "__main__":
    main()
