"""Recipes in small for the networks: each encoder, decoder and discriminator, the conditional ones with labelled data."""

from __future__ import annotations

from common import LABELLED

from hybridgen.data import SampleSpec

DATA = '[data]\nuse = "digits"\nbatch_size = 8\n'
VECTOR = '[latent]\nuse = "gaussian"\ndim = 4\n'
SPATIAL = '[latent]\nuse = "gaussian"\ndim = 3\nhalvings = 2\n'
TERMS = '[loss.reconstruction]\nuse = "reconstruction"\n[loss.kl]\nuse = "kl"\n'
R1 = '[loss.r1]\nuse = "r1"\n'


def table(part: str, use: str, options: str = "") -> str:
    return f'[{part}]\nuse = "{use}"\nwidth = 8\n{options}\n'


def vae(encoder: str, decoder: str = "", *, options: str = "", latent: str = VECTOR) -> str:
    """Both networks of one name unless two are given; `options` for both."""
    return DATA + table("encoder", encoder, options) + table("decoder", decoder or encoder, options) + latent + TERMS


def bigan(discriminator: str, options: str = "", net: str = "mlp", latent: str = VECTOR) -> str:
    """A critic of pairs, with each side's term."""
    judged = f'real = {{ x = "x", z = "z" }}\nfake = {{ x = "fake", z = "z_prior" }}\n{options}'
    game = '[loss.adversarial]\nuse = "adversarial"\n[loss.inference]\nuse = "adversarial-inference"\n'
    return DATA + table("encoder", net) + table("decoder", net) + latent + table("discriminator", discriminator, judged) + game


def vagan(discriminator: str, options: str = "", net: str = "mlp", net_options: str = "") -> str:
    judged = f'fake = ["recon", "fake"]\n{options}'
    adversarial = '[loss.adversarial]\nuse = "adversarial"\nweight = 0.5\n'
    return vae(net, options=net_options) + table("discriminator", discriminator, judged) + adversarial


ATTENTION = "blocks = 2\nattention = 4"
SINGLE = "blocks = 1"
SPECTRAL = "spectral_norm = true"

CONCATENATED = table("decoder", "residual-conditional", 'condition = "concat"')

RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    "mlp": vagan("mlp", 'minibatch = "stddev"') + R1,
    "mlp-discrimination": vagan("mlp", 'minibatch = "discrimination"'),
    "conv": vagan("conv", net="conv"),
    "conv-dcgan": vagan("conv", 'init = "dcgan"\nnorm = "batch"', "conv", 'init = "dcgan"\nnorm = "batch"'),
    "conv-spatial": vae("conv", latent=SPATIAL),
    "residual": vagan("residual", "attention = 4", "residual", ATTENTION) + R1,
    "residual-spatial": vae("residual", latent=SPATIAL, options='norm = "none"'),
    "r3gan": vagan("r3gan", SINGLE, "r3gan", SINGLE) + R1,
    "r3gan-spatial": vae("r3gan", latent=SPATIAL, options="blocks = 1\nexpansion = 0.5"),
    "r3gan-stddev": vagan("r3gan", f'{SINGLE}\nminibatch = "stddev"'),
    "mlp-joint": bigan("mlp-joint", 'minibatch = "stddev"') + R1,
    "mlp-joint-of-codes-in-the-plane": bigan("mlp-joint", net="conv", latent=SPATIAL),
    "conv-joint": bigan("conv-joint", "units = 12", "conv") + R1,
    "conv-joint-spectral": bigan("conv-joint", f'{SPECTRAL}\nnorm = "batch"', "conv"),
    "mlp-of-two-widths": vae("mlp").replace("width = 8", "width = [12, 6]", 1).replace("width = 8", "width = [6, 12]", 1),
    "patch": vagan("patch") + R1,
    "patch-batch": vagan("patch", 'norm = "batch"\nlayers = 0'),
    "mlp-projection": (vagan("mlp-projection", net="mlp-conditional") + R1, LABELLED),
    "conv-projection": (vagan("conv-projection", net="conv-conditional"), LABELLED),
    "conv-conditional-spatial": (vae("conv-conditional", latent=SPATIAL), LABELLED),
    "residual-projection": (
        vagan("residual-projection", f'{SPECTRAL}\nminibatch = "discrimination"', "residual-conditional"),
        LABELLED,
    ),
    "residual-conditional-batch": (vae("residual-conditional", options='norm = "batch"', latent=SPATIAL), LABELLED),
    "residual-conditional-concat": (DATA + table("encoder", "conv") + CONCATENATED + VECTOR + TERMS, LABELLED),
}
