"""Recipes that show each augmentation, each equilibrium margin and each kind of damage at work."""

from __future__ import annotations

from common import ADVERSARIAL_AE, AE, GAN, POINTS, VAE, VAGAN

from hybridgen.data import SampleSpec

COLOURED = SampleSpec(kind="image", shape=(3, 9, 7), count=64, low=0, high=255, levels=256, activation="tanh", classes=())
PLANES = SampleSpec(kind="image", shape=(5, 8, 8), count=64, low=0, high=255, levels=256, activation="tanh", classes=())


def augmented(text: str, augment: str, critic: str = "conv") -> str:
    """A recipe whose discriminator (of another kind, if need be) sees its samples through an augmentation."""
    network = '[discriminator]\nuse = "mlp"\nwidth = 16'
    assert network in text
    wanted = f'[discriminator]\nuse = "{critic}"\nwidth = 8\naugment = {{ use = {augment} }}'
    return text.replace(network, wanted)


def denoising(text: str, *lines: str) -> str:
    """A recipe whose encoder sees the batch with something missing."""
    table = "\n".join(["[quantity.x_corrupted]", 'use = "corrupted"', *lines])
    return text.replace("[decoder]", 'inputs = { x = "x_corrupted" }\n[decoder]') + table + "\n"


HELD_CRITIC = VAGAN.replace("[discriminator]", '[discriminator]\nhold = "ahead"') + '[quantity.ahead]\nuse = "critic-ahead"\n'
HELD = (
    HELD_CRITIC.replace("[decoder]", '[decoder]\nhold = "behind"')
    + 'target = 0.68\nmargin = 0.3\n[quantity.behind]\nuse = "critic-behind"\ntarget = 0.68\nmargin = 0.3\n'
)

RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    "diffaugment": augmented(GAN, '"diffaugment"'),
    "diffaugment-coloured": (augmented(VAGAN, '"diffaugment"'), COLOURED),
    "diffaugment-one-group": augmented(VAGAN, '"diffaugment", policy = ["cutout"], cutout = 0.3'),
    "ada": augmented(GAN, '"ada", target = -0.95, speed = 0.05'),
    "ada-coloured": (
        augmented(VAGAN, '"ada", p = 0.6, policy = ["blit", "geometry", "colour", "noise", "cutout"]'),
        COLOURED,
    ),
    "ada-of-five-channels": (augmented(VAGAN, '"ada", p = 0.5'), PLANES),
    "ada-without-geometry": augmented(GAN, '"ada", p = 0.5, policy = ["colour", "noise"]'),
    "instance-noise": augmented(VAGAN, '"instance-noise", over = 0.5'),
    "instance-noise-on-points": (augmented(GAN, '"instance-noise", sigma = 0.3', "mlp"), POINTS),
    "instance-noise-on-codes": augmented(ADVERSARIAL_AE, '"instance-noise"', "mlp"),
    "corrupted": denoising(AE),
    "corrupted-masking": denoising(VAE, 'kind = "masking"', "amount = 0.4", "blank = 0.0"),
    "hold-critic": HELD_CRITIC,
    "hold-both": HELD,
}
