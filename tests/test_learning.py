"""Shipped recipes learn: bounds on real or analytic data that an untrained model fails and three seeds pass.

`tests/learn.py` states the bounds, trains every study over three seeds and keeps the figures in `learned.json`, which
recipes/README.md shows. Here one seed of some of them is trained anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from common import SHIPPED
from learn import (
    PAGE,
    STUDIES,
    Trained,
    digits,
    figures_of,
    judge,
    judged,
    missed,
    modes,
    page,
    recorded,
    run,
    scaled,
    splits,
    untrained,
)
from sklearn.neighbors import KNeighborsClassifier

from hybridgen_data.toy2d import Toy2d

QUICK = ("ae-digits", "vae-mlp")
SLOW = (
    "vagan-digits",
    "vae-digits",
    "iwae",
    "cvae",
    "vq-vae",
    "gan-ring",
    "vagan-mlp-2d",
    "infogan",
    "aae",
)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_learns(name: str, tmp_path: Path) -> None:
    assert missed(STUDIES[name], figures_of(STUDIES[name], run(name, 0, tmp_path))) == {}


def test_every_shipped_recipe_has_a_study_and_three_seeds_hold() -> None:
    recipes = set(SHIPPED) - {"vagan-images"}  # its pictures are the user's
    assert recipes <= {study.recipe for study in STUDIES.values()}
    known = recorded()
    assert known.keys() == STUDIES.keys()
    for name, seeds in known.items():
        assert len(seeds) >= (1 if name.startswith("fashion-") else 3), name
        for seed, figures in seeds.items():
            assert missed(STUDIES[name], figures) == {}, f"{name}, seed {seed}"


def over_seeds(name: str, figure: str) -> list[float]:
    return [seed[figure] for seed in recorded()[name].values()]


def test_iwaes_bound_is_tighter_than_the_vaes() -> None:
    """Than the VAE's own ELBO, and than the bound of as many samples on the VAE's posterior (Burda et al. 2015, table 1)."""
    bound = "log p(x), nats above that decoder"
    assert min(over_seeds("iwae", bound)) > max(over_seeds("vae-digits", bound)) + 1
    assert min(over_seeds("iwae", bound)) > max(over_seeds("vae-digits", "ELBO, nats above a decoder that ignores z")) + 5


def test_on_fashion_mnist_a_critic_lowers_fid_at_some_cost_in_reconstruction() -> None:
    for hybrid in ("fashion-vagan", "fashion-vae-gan-larsen"):
        assert max(over_seeds(hybrid, "FID")) < 0.8 * min(over_seeds("fashion-vae-digits", "FID"))
        assert min(over_seeds(hybrid, "squared error a pixel")) > max(over_seeds("fashion-vae-digits", "squared error a pixel"))


def test_wgan_gp_and_r3gan_are_steadier_than_dcgan() -> None:
    """Closer together over three seeds on digits; better in each seed on Fashion-MNIST."""
    games = ("wgan-gp", "r3gan", "dcgan")
    spread = {name: max(found) - min(found) for name in games for found in [over_seeds(name, "FID")]}
    assert max(spread["wgan-gp"], spread["r3gan"]) < 0.6 * spread["dcgan"]
    for game in ("fashion-wgan-gp", "fashion-r3gan"):
        assert max(over_seeds(game, "FID")) < min(over_seeds("fashion-dcgan", "FID"))


def test_the_page_shows_the_recorded_figures() -> None:
    assert page() in PAGE.read_text(encoding="utf-8"), "write it anew: python tests/learn.py --page"


def test_the_judges_know_real_data_and_reject_noise() -> None:
    train, held_out = digits()
    fresh = KNeighborsClassifier(10, weights="distance").fit(scaled(train), splits()["train"].label)
    assert fresh.score(scaled(held_out), splits()["validation"].label) > 0.95
    assert 0.93 < fresh.predict_proba(scaled(held_out)).max(1).mean() < 0.98
    assert judge().n_samples_fit_ == 1797
    assert judged(train[:1000])[1] > 0.08
    assert judged(torch.rand(1000, 1, 8, 8) * 2 - 1)[0] < 0.65
    assert judged((train[:800] + train[800:1600]) / 2)[0] < 0.75


class Points:
    """What `modes` asks of a model: samples, of the data here or of a broad Gaussian."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def sample(self, count: int, seed: int) -> torch.Tensor:
        return self.x[:count]


@pytest.mark.parametrize(("shape", "count"), [("ring", 8), ("grid", 25)])
def test_the_judge_of_points_knows_the_data(shape: str, count: int) -> None:
    real = Toy2d(shape=shape, modes=count).load()["train"].x
    share, reached, every = modes(Trained(Points(real), {}), shape)
    assert (share > 0.98, reached, every) == (True, count, count)
    assert modes(Trained(Points(2 * torch.randn(2000, 2)), {}), shape)[0] < 0.5


# a study of each sort, and the bounds that an untrained model must miss
UNTRAINED = {
    "ae-digits": {"error / PCA's"},
    "vae-digits": {"ELBO, nats above a decoder that ignores z", "error / PCA's"},
    "vq-vae": {"error / PCA's"},
    "cvae": {"ELBO, nats above a decoder that ignores z", "the class asked for"},
    "gan-digits": {"confidence", "rarest class"},
    "infogan": {"confidence", "rarest class", "AMI of code and class"},
    "vagan-digits": {"confidence", "rarest class", "error / PCA's"},
    "aae": {"error / PCA's", "p-value, codes against prior", "confidence", "rarest class"},
    "vagan-mlp-2d": {"good samples", "modes"},
    "r3gan-grid": {"good samples", "modes"},
}


@pytest.mark.parametrize("name", UNTRAINED)
def test_an_untrained_model_misses_the_bounds(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    assert missed(study, figures_of(study, untrained(name, tmp_path))).keys() >= UNTRAINED[name]
