"""Recipes in small for the latents and for the losses that belong to them."""

from __future__ import annotations

from common import AUTOENCODER, CRITIC, DATA, NETWORKS, POINTS

from hybridgen.data import SampleSpec

KL = '[loss.kl]\nuse = "kl"\n'
QUANTISATION = '[loss.quantisation]\nuse = "quantisation"\n'
FAKE = CRITIC.replace("{fake}", '"fake"')
LATENT_CRITIC = """
[discriminator]
use = "mlp"
width = 16
real = "z_prior"
fake = "z"
[loss.adversarial]
use = "adversarial"
"""


def latent(use: str, options: str) -> str:
    return f'[latent]\nuse = "{use}"\n{options}\n'


def gan(use: str, options: str) -> str:
    return DATA + '[decoder]\nuse = "mlp"\nwidth = 16\n' + latent(use, options) + FAKE


CONVOLUTIONS = NETWORKS.replace('"mlp"\nwidth = 16', '"conv"\nwidth = 8')
SPATIAL = DATA + CONVOLUTIONS + '[loss.reconstruction]\nuse = "reconstruction"\n'
INFO = DATA + NETWORKS + FAKE + '[loss.information]\nuse = "mutual-information"\n'

RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    "gaussian-spatial": SPATIAL + latent("gaussian", "dim = 3\nhalvings = 1") + KL,
    "deterministic-spatial": SPATIAL + latent("deterministic", "dim = 3\nhalvings = 2"),
    "gaussian-mixture": AUTOENCODER + latent("gaussian-mixture", "dim = 4\ncomponents = 3") + KL,
    "gaussian-mixture-gan": gan("gaussian-mixture", "dim = 4\ncomponents = 3"),
    "vamp-vagan": AUTOENCODER + latent("vamp", "dim = 4\ncomponents = 5") + KL + CRITIC.replace("{fake}", '["recon", "fake"]'),
    "vamp-points": (AUTOENCODER + latent("vamp", "dim = 2\ncomponents = 5") + KL, POINTS),
    "uniform-gan": gan("uniform", "dim = 4"),
    "uniform-adversarial-ae": AUTOENCODER + latent("uniform", "dim = 4") + LATENT_CRITIC,
    "sphere-gan": gan("sphere", "dim = 4"),
    "sphere-adversarial-ae": AUTOENCODER + latent("sphere", "dim = 4") + LATENT_CRITIC,
    "vector-quantised": SPATIAL + latent("vector-quantised", "codes = 7\ndim = 3\nhalvings = 2\nrevive = 0.3") + QUANTISATION,
    "vector-quantised-vector": AUTOENCODER + latent("vector-quantised", "codes = 7\ndim = 3\nrevive = 0") + QUANTISATION,
    "vector-quantised-gradient": SPATIAL
    + latent("vector-quantised", 'codes = 7\ndim = 3\nhalvings = 1\ncodebook = "gradient"\nrevive = 0.3')
    + QUANTISATION,
    "vector-quantised-gan": SPATIAL
    + latent("vector-quantised", 'codes = 7\ndim = 3\nhalvings = 2\nprior = "uniform"')
    + QUANTISATION
    + CRITIC.replace("{fake}", '["recon", "fake"]'),
    "finite-scalar": SPATIAL + latent("finite-scalar", "levels = [4, 3, 2]\nhalvings = 1"),
    "finite-scalar-gan": AUTOENCODER
    + latent("finite-scalar", 'levels = [4, 5]\nprior = "uniform"')
    + CRITIC.replace("{fake}", '["recon", "fake"]'),
    "info": INFO + latent("info", "noise = 3\ncategories = [4, 3]\ncontinuous = 2"),
    "info-categories": INFO + latent("info", "noise = 0\ncategories = [4]\ncontinuous = 0"),
    "info-continuous": INFO + latent("info", "noise = 3\ncategories = []\ncontinuous = 1"),
}

STILL = {"gaussian-mixture-gan": {"latent/logits"}}
"""A sample says nothing about the weight of the component that it came from."""
