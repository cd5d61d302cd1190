"""The code as it is: what makes an autoencoder plain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import Dim, StandardNormal
from hybridgen_latents.spatial import Halvings, sides


@dataclass(frozen=True)
class Point:
    """A posterior without spread: all its mass at `mean`, `b d` or `b d h w`."""

    mean: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The point itself, whatever the noise."""
        return self.mean

    def kl(self, prior: Any, z: Tensor | None = None) -> Tensor:
        """Undefined: the KL from a point to a density is infinite."""
        raise ValueError(
            'a deterministic latent has no KL (it is infinite); remove the KL loss, or write [latent] use = "gaussian"'
        )


class Deterministic(nn.Module):
    """z is the encoder's code: the latent of a plain autoencoder; with `prior = "normal"` of an adversarial one.

    z = code

    Shapes: code and z `b d`; with `halvings` `b d h w`.
    Raises: ValueError for `halvings` of data that are no pictures, or too many; from `kl`, which is infinite.
    When: reconstruction or features are all that counts; or a critic (real = "z_prior", fake = "z") or an MMD shapes z.
    Healthy: codes of a scale of about 1 that stays. A scale that grows without end wants weight decay or a prior.
    Source: Makhzani et al. 2015 (arXiv:1511.05644), section 2, the deterministic encoder.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...] | None = None,
        *,
        dim: Dim = 16,
        halvings: Halvings = None,
        prior: Annotated[
            Literal["none", "normal"], Field(description="what z_prior is drawn from; with none there is no sampling")
        ] = "none",
    ) -> None:
        super().__init__()
        self.z_shape = (dim, *sides(sample_shape, halvings, "deterministic"))
        self.code_shape = self.z_shape
        self._prior = StandardNormal() if prior == "normal" else None

    def posterior(self, code: Tensor) -> Point:
        return Point(code.float())

    def prior(self) -> StandardNormal | None:
        return self._prior
