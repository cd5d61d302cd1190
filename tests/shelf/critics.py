"""Recipes in small: the adversarial games, and what keeps critics smooth."""

from __future__ import annotations

from common import BIGAN, GAN, LABELLED, TWO_CRITICS, VAE, VAGAN

from hybridgen.data import SampleSpec

CONV = ('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "conv"\nwidth = 4')
ADVERSARIAL = '[loss.adversarial]\nuse = "adversarial"\n'


def game(text: str, *lines: str) -> str:
    """A recipe with another game, or options of its adversarial loss."""
    head = "" if lines[0].startswith("use") else 'use = "adversarial"\n'
    return text.replace(ADVERSARIAL, "[loss.adversarial]\n" + head + "\n".join(lines) + "\n")


def loss(use: str, *lines: str, name: str = "") -> str:
    return "\n".join([f"[loss.{name or use}]", f'use = "{use}"', *lines]) + "\n"


LECAM = loss("lecam", "decay = 0.5", "discriminator_weight = 0.1")
WASSERSTEIN = game(GAN, 'formulation = "wasserstein"')
CONDITIONAL = GAN.replace('[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp-conditional"').replace(
    '[discriminator]\nuse = "mlp"', '[discriminator]\nuse = "mlp-projection"'
)
PAIRS = BIGAN.replace('use = "pair"', 'use = "mlp-joint"\nwidth = 16').replace('"both-sides"', '"adversarial-inference"')
INTROSPECTIVE = VAE.replace('[loss.kl]\nuse = "kl"\n', "").replace(
    'use = "reconstruction"', 'use = "soft-introspective"\nwarm_up = 0.0'
)
INTROSPECTIVE += '[players]\ndiscriminator = ["encoder"]\n'
BATCH_NORM = GAN.replace('fake = "fake"', 'fake = "fake"\nnorm = "batch"')

RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    # games
    "minimax": game(GAN, 'formulation = "minimax"'),
    "least-squares-smoothed": game(VAGAN, 'formulation = "least-squares"', "real_target = 0.9"),
    "smoothed-on-both-sides": game(GAN, "real_target = 0.9", "fake_target = 0.1"),
    "hinge": game(GAN.replace(*CONV), 'formulation = "hinge"'),
    # (only differences of logits count there: LeCam gives them a level, without which the last bias would stay)
    "relativistic-pairing": game(GAN.replace(*CONV), 'use = "relativistic"') + loss("r1-r2", 'gamma = "auto"') + LECAM,
    "relativistic-average": game(VAGAN, 'use = "relativistic"', 'formulation = "average"') + LECAM,
    "inference": PAIRS,
    "inference-least-squares": game(PAIRS, 'formulation = "least-squares"').replace(
        'use = "adversarial-inference"', 'use = "adversarial-inference"\nformulation = "least-squares"'
    ),
    "introspective": INTROSPECTIVE,
    "introspective-conditional": (INTROSPECTIVE.replace('use = "mlp"', 'use = "mlp-conditional"'), LABELLED),
    # penalties
    "wasserstein-gradient-penalty": WASSERSTEIN.replace(*CONV) + loss("gradient-penalty", "discriminator_weight = 10"),
    "gradient-penalty-one-sided-lazy": VAGAN + loss("gradient-penalty", "one_sided = true", "target = 0.01", "every = 2"),
    "dragan-lazy": VAGAN + loss("dragan", "discriminator_weight = 10", "every = 3"),
    "r1-auto-lazy": VAGAN.replace(*CONV) + loss("r1", 'gamma = "auto"', "discriminator_weight = 100", "every = 3"),
    "r2": VAGAN + loss("r2", "gamma = 0.5"),
    "r1-r2-two-generated": VAGAN + loss("r1-r2", "every = 2"),
    "finite-lazy": VAGAN.replace(*CONV)
    + loss("r1-finite", "every = 2")
    + loss("r2-finite", "every = 2", 'gamma = "auto"', "sigma = 0.1"),
    "pairs-r1": BIGAN + loss("r1") + loss("gradient-penalty"),
    "two-critics-r1-r2": TWO_CRITICS + loss("r1", 'discriminator = "data"') + loss("r2", 'discriminator = "latent"'),
    "conditional-critic": (CONDITIONAL + loss("r1-r2") + loss("r1-finite") + loss("gradient-penalty"), LABELLED),
    "batch-norm-critic": BATCH_NORM + loss("dragan") + loss("r1-r2"),
    # the rest
    "lecam": VAGAN + LECAM,
    "consistency": VAGAN.replace(*CONV) + loss("consistency", "discriminator_weight = 10", "every = 2"),
    "consistency-of-pairs": BIGAN + loss("consistency", "fake_weight = 0.0", "mirror = false"),
    "orthogonal": GAN.replace(*CONV) + loss("orthogonal", "discriminator_weight = 0.01") + loss("orthogonal-decoder"),
    "orthogonal-relaxed": VAGAN
    + loss("orthogonal", "relaxed = true", "discriminator_weight = 1e-4")
    + loss("orthogonal-decoder", "relaxed = false", "weight = 1e-2"),
}

BIAS = {"discriminator.main/to_logit.bias"}
STILL = {"wasserstein-gradient-penalty": BIAS, "hinge": BIAS}
"""What adds to every logit alike pulls the two halves apart with equal force: always in the wasserstein game, and in the hinge
game while every logit is within [-1, 1]."""
