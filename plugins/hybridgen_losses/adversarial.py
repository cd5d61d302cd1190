"""The game of two players."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

Formulation = Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein"]


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """-target * log D - (1 - target) * log(1 - D), D = sigmoid(logits), averaged. Hard targets cost one softplus."""
    if target == 1.0:
        return F.softplus(-logits).mean()
    if target == 0.0:
        return F.softplus(logits).mean()
    return target * F.softplus(-logits).mean() + (1 - target) * F.softplus(logits).mean()


class Adversarial(nn.Module):
    """The GAN losses on raw logits l: the discriminator tells real from generated, the generator makes it err.

    nonsaturating  D: softplus(-real) + softplus(fake), which is -log D(real) - log(1 - D(fake)), D = sigmoid(l)
                   G: softplus(-fake), which is -log D(fake)
    minimax        D: the same;  G: -softplus(fake), which is log(1 - D(fake)), with almost no gradient while D wins
    least-squares  D: (real - b)^2 / 2 + (fake - a)^2 / 2;  G: (fake - c)^2 / 2, where a = 0 and b = c = 1
    hinge          D: max(0, 1 - real) + max(0, 1 + fake);  G: -fake. Never squash the logits first
    wasserstein    D: fake - real;  G: -fake. Bounds nothing by itself: add "gradient-penalty", or clip the weights

    Label smoothing: `real_target` r gives real samples the label r in place of 1, and the best D is
    r p / (p + q) for densities p of the data and q of the generator: less sure, else the same. A `fake_target` f adds f q to
    the numerator: where p is nearly 0 and q large, D then peaks at the generator's own mistakes, which have no reason to
    move. So smooth the real side only. The generator's term has no label to smooth; with least-squares r is b = c, f is a.

    Shapes: logits `b ...` (patches are averaged); returns a scalar.
    Raises: ValueError for label smoothing with hinge or wasserstein, which have no labels, or unless real_target > fake_target.
    When: nonsaturating first; hinge with spectral norm; wasserstein with a gradient penalty and several critic steps;
        least-squares where D should keep a gradient on samples that it is sure of; minimax to study the game itself.
    Healthy: near the equilibrium D's term is 2 log 2 = 1.386 and G's log 2 = 0.693 (minimax -0.693); least-squares 0.25
        and 0.125; hinge 2 and 0. D's term near 0 means that it wins and G learns little. Wasserstein: minus D's
        term estimates the distance and should fall.
    Source: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and section 3; Mao et al. 2016 (arXiv:1611.04076), equation
        9; Lim & Ye 2017 (arXiv:1705.02894) and Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17; Arjovsky et al.
        2017 (arXiv:1701.07875); smoothing: Salimans et al. 2016 (arXiv:1606.03498), section 3.4.
    """

    def __init__(
        self,
        *,
        formulation: Annotated[Formulation, Field(description="the game that is played")] = "nonsaturating",
        real_target: Annotated[float, Field(gt=0, le=1, description="label of real samples; 0.9 smooths one side")] = 1.0,
        fake_target: Annotated[float, Field(ge=0, lt=1, description="label of generated samples; best left at 0")] = 0.0,
    ) -> None:
        super().__init__()
        if formulation in ("hinge", "wasserstein") and (real_target, fake_target) != (1.0, 0.0):
            raise ValueError(
                f"the {formulation} loss has no labels to smooth; remove real_target and fake_target, or write formulation = "
                f'"nonsaturating", "minimax" or "least-squares"'
            )
        if fake_target >= real_target:
            raise ValueError(
                f"fake_target = {fake_target} is no smaller than real_target = {real_target}: nothing would tell real from "
                f"generated; write e.g. real_target = 0.9 alone"
            )
        self.formulation = formulation
        self.real_target = real_target
        self.fake_target = fake_target
        self.decision = {"wasserstein": None, "least-squares": (real_target + fake_target) / 2}.get(formulation, 0.0)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = real_logits.float(), fake_logits.float()
        if self.formulation == "wasserstein":
            return fake.mean() - real.mean()
        if self.formulation == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        if self.formulation == "least-squares":
            return 0.5 * (real - self.real_target).square().mean() + 0.5 * (fake - self.fake_target).square().mean()
        return cross_entropy(real, self.real_target) + cross_entropy(fake, self.fake_target)

    def generator(self, fake_logits: Tensor) -> Tensor:
        fake = fake_logits.float()
        if self.formulation in ("hinge", "wasserstein"):
            return -fake.mean()
        if self.formulation == "least-squares":
            return 0.5 * (fake - self.real_target).square().mean()
        if self.formulation == "minimax":
            return -F.softplus(fake).mean()
        return F.softplus(-fake).mean()


class AdversarialInference(nn.Module):
    """The encoder's side of BiGAN's and ALI's game: its pairs (x, z) shall look like the decoder's.

    The critic judges `real = { x = "x", z = "z" }` against `fake = { x = "fake", z = "z_prior" }`; "adversarial" trains it and
    the decoder, this term the encoder, by the same formulation with the labels turned (l the logit of the encoder's pair):

    nonsaturating  softplus(l);  minimax  -softplus(-l);  least-squares  (l - a)^2 / 2 with a = 0;  hinge, wasserstein  l

    Shapes: logits `b ...`; returns a scalar.
    When: beside "adversarial" of the same formulation, with a critic of pairs ("mlp-joint", "conv-joint").
    Healthy: as the decoder's term in "adversarial": near log 2 = 0.693 at the equilibrium of the first game, the decoder's at
        the same height. Where one side stays far above the other, that network is too weak or learns too slowly.
    Source: Donahue et al. 2016 (arXiv:1605.09782), equation 3 and section 3.4; Dumoulin et al. 2016 (arXiv:1606.00704),
        equation 2 and algorithm 1.
    """

    def __init__(
        self, *, formulation: Annotated[Formulation, Field(description="the game, as in `adversarial`")] = "nonsaturating"
    ) -> None:
        super().__init__()
        self.formulation = formulation

    def generator(self, real_logits: Tensor) -> Tensor:
        real = real_logits.float()
        if self.formulation in ("hinge", "wasserstein"):
            return real.mean()
        if self.formulation == "least-squares":
            return 0.5 * real.square().mean()
        if self.formulation == "minimax":
            return -F.softplus(-real).mean()
        return F.softplus(real).mean()
