"""The critic's opinion does not change with what does not matter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from hybridgen_losses.penalties import Critic, Sample, asked
from hybridgen_providers.diffaugment import flip, pixels, translate, whole_shifts


class Consistency(nn.Module):
    """A picture and its shifted and mirrored copy T(x) get the same logit, real or generated (bCR).

    loss = real_weight * mean (D(x) - D(T(x)))^2 + fake_weight * mean (D(G(z)) - D(T(G(z))))^2

    T moves each picture by whole pixels, at most `shift` of each side (grey comes in), and mirrors it with probability
    1/2. The generator never sees a copy, so T can't leak into samples. D(x) is the logit that the game has already
    computed. In joint samples the role `x` changes and the others stay. The paper's lambda is the recipe's
    `discriminator_weight`; fake_weight = 0 is CR-GAN.

    Shapes: judged_real, judged_fake `b c h w`, logits `b ...` (patches are averaged); returns a scalar.
    Raises: ValueError for what are no pictures, both weights at 0, or a T that changes nothing.
    When: thousands of pictures, where shifts and mirror images mean the same (not for digits: mirror = false), with
        discriminator_weight = 10; with hundreds, augmentation of all that is judged does more.
    Healthy: small against the adversarial term from early on. Growing means that D tells pictures by their
        place, hence by heart: raise the weight.
    Source: Zhao et al. 2020 (arXiv:2002.04724), algorithm 1; CR-GAN: Zhang et al. 2019 (arXiv:1910.12027).
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        real_weight: Annotated[float, Field(ge=0, description="of the real half")] = 1.0,
        fake_weight: Annotated[float, Field(ge=0, description="of the generated half")] = 1.0,
        shift: Annotated[float, Field(ge=0, lt=1, description="largest shift, as a ratio of each side")] = 0.125,
        mirror: Annotated[bool, Field(description="mirror half of the copies, left and right")] = True,
    ) -> None:
        super().__init__()
        if len(judged_shape) != 3:
            raise ValueError(
                f"consistency shifts pictures (c, h, w), this discriminator judges the shape {judged_shape}; remove this loss, "
                f'or use "lecam" or "r1"'
            )
        if not real_weight and not fake_weight:
            raise ValueError("consistency: real_weight and fake_weight are both 0; remove this loss instead")
        self.most = tuple(pixels(side, shift) for side in judged_shape[1:])
        if not mirror and not any(self.most):
            raise ValueError(
                f"consistency: mirror is off and shift = {shift:g} moves {judged_shape[1:]} by less than a pixel, so a copy "
                f"would be the picture itself; write e.g. shift = 0.125"
            )
        self.real_weight = real_weight
        self.fake_weight = fake_weight
        self.mirror = mirror
        self.draws = {"places": ("uniform", (2,)), "mirrored": ("uniform", ())}

    def discriminator(
        self,
        critic: Critic,
        judged_real: Sample,
        judged_fake: Sample,
        real_logits: Tensor,
        fake_logits: Tensor,
        places: Tensor,
        mirrored: Tensor,
    ) -> Tensor:
        halves = []
        for weight, sample, logits in (
            (self.real_weight, judged_real, real_logits),
            (self.fake_weight, judged_fake, fake_logits),
        ):
            if weight:
                again = asked(critic, self._copy_of(sample, places, mirrored))
                halves.append(weight * (logits.float() - again).square().mean())
        return halves[0] if len(halves) == 1 else halves[0] + halves[1]

    def _copy_of(self, sample: Sample, places: Tensor, mirrored: Tensor) -> Sample:
        if isinstance(sample, dict):
            return sample | {"x": self._changed(sample["x"], places, mirrored)}
        return self._changed(sample, places, mirrored)

    def _changed(self, x: Tensor, places: Tensor, mirrored: Tensor) -> Tensor:
        """T(x). Shapes: x `b c h w`, places `b 2` and mirrored `b`, both in [0, 1)."""
        moved = translate(x.float(), whole_shifts(places, self.most))
        return flip(moved, mirrored < 0.5) if self.mirror else moved
