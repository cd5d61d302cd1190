"""Instance noise: real and generated samples meet where neither alone would be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn


class InstanceNoise(nn.Module):
    """Gaussian noise on every sample that a critic judges, less and less along the run.

    `[discriminator] augment = { use = "instance-noise" }`

    x + sigma * max(0, 1 - progress / over) * noise

    Data and samples that share no point can be told apart perfectly, and a perfect critic has no gradient to give; with noise
    on both they overlap. In evaluation nothing is changed.

    Shapes: x `b ...`; returns `b ...`.
    When: a critic that wins within the first steps, on data of any shape (codes, points, pictures); `r1` smooths the same
        critic without noise, at the cost of a second derivative.
    Healthy: the critic's accuracy stays below 1 from the start, and samples keep getting better while the noise goes; a
        critic that wins as soon as it is gone wants a larger `over`, samples that stay grainy a smaller `sigma`.
    Source: Sonderby et al. 2016 (arXiv:1610.04490), appendix; Arjovsky & Bottou 2017 (arXiv:1701.04862), section 3.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        sigma: Annotated[float, Field(gt=0, description="standard deviation at the start, in units of what is judged")] = 0.1,
        over: Annotated[float, Field(gt=0, le=1, description="fraction of the run after which there is none")] = 1.0,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.over = over
        self.draws = {"grain": ("normal", judged_shape)}

    def forward(self, x: Tensor, grain: Tensor, progress: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + self.sigma * (1 - progress / self.over).clamp(min=0) * grain
