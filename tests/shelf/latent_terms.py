"""Recipes in small: what a code costs, and what shape the codes together have."""

from __future__ import annotations

from common import AE, DATA, LABELLED, NETWORKS, POINTS, VAE

from hybridgen.data import SampleSpec

KL = '[loss.kl]\nuse = "kl"\n'
CONV = NETWORKS.replace('"mlp"', '"conv"').replace("16", "4")
GAUSSIAN = '[latent]\nuse = "gaussian"\ndim = 4\n'
SPATIAL = '[latent]\nuse = "gaussian"\ndim = 3\nhalvings = 2\n'
MIXTURE = VAE.replace('"gaussian"', '"gaussian-mixture"\ncomponents = 3')
CONDITIONAL = NETWORKS.replace('[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp-conditional"')
CODES = """
[quantity.z_permuted]
use = "permuted"
[discriminator.codes]
use = "mlp"
width = 16
real = "z"
fake = "z_permuted"
[loss.factor]
use = "factor"
weight = 3.0
"""


def instead(use: str, *lines: str, of: str = VAE) -> str:
    """A VAE with another term in place of its KL."""
    return of.replace(KL, "\n".join(["[loss.kl]", f'use = "{use}"', *lines]) + "\n")


def beside(use: str, *lines: str, to: str = VAE) -> str:
    return to + "\n".join([f"[loss.{use}]", f'use = "{use}"', *lines]) + "\n"


def iwae(*lines: str, networks: str = NETWORKS, latent: str = GAUSSIAN) -> str:
    """The importance-weighted bound in place of both reconstruction and KL."""
    return DATA + networks + latent + "\n".join(["[loss.bound]", 'use = "iwae"', *lines]) + "\n"


RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    "beta": instead("kl", "weight = 4.0"),
    "cyclical": instead("kl", "weight = { to = 1.0, cycle = 0.25 }") + "[train]\nsteps = 16\n",
    "capacity": instead("capacity", "weight = 100.0", "capacity = 10.0", "over = 0.5"),
    "free-bits": instead("free-bits"),
    "free-bits-spatial": instead("free-bits", "free = 1.0").replace(GAUSSIAN, SPATIAL),
    "tc-weighted": instead("tc-decomposition", "beta = 4.0", 'estimator = "weighted"'),
    "tc-stratified-spatial": instead("tc-decomposition", "alpha = 0.0").replace(GAUSSIAN, SPATIAL),
    "factor": VAE + CODES,
    "factor-spatial": VAE.replace(GAUSSIAN, SPATIAL) + CODES,
    "dip-i": beside("dip"),
    "dip-ii": beside("dip", 'kind = "ii"', "lambda_od = 3.0", "lambda_d = 1.0"),
    "wae": beside("mmd", "weight = 10.0", to=AE + 'prior = "normal"\n'),
    "info-vae-learned-prior": beside("mmd", 'kernel = "rbf"', 'estimator = "biased"', "scales = [0.5, 2.0]", to=MIXTURE),
    "iwae": iwae("samples = 3", "learn_scale = true"),
    "iwae-conv-bernoulli": iwae('likelihood = "bernoulli"', "samples = 4", networks=CONV),
    "iwae-conv-doubly": iwae('gradient = "doubly"', 'likelihood = "laplace"', "scale = 0.3", networks=CONV),
    "iwae-vamp-doubly": iwae('gradient = "doubly"', latent='[latent]\nuse = "vamp"\ndim = 4\ncomponents = 3\n'),
    "iwae-spatial": iwae(latent=SPATIAL),
    "iwae-points-doubly": (iwae("samples = 3", 'gradient = "doubly"', "learn_scale = true"), POINTS),
    "iwae-labelled": (iwae(networks=CONDITIONAL), LABELLED),
    "iwae-and-critic-of-codes": iwae() + CODES,
}
