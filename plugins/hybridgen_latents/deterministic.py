"""The code as it is: what makes an autoencoder plain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import StandardNormal


@dataclass(frozen=True)
class Point:
    """A posterior without spread: all its mass at `mean`, `b d`."""

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
    """z is the encoder's code. For autoencoders; with `prior = "normal"` for adversarial ones, whose critic shapes z.

    Shapes: code `b d`; z `b d`.
    """

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=1, description="number of latent values")] = 16,
        prior: Annotated[
            Literal["none", "normal"], Field(description="what z_prior is drawn from; with none there is no sampling")
        ] = "none",
    ) -> None:
        super().__init__()
        self.code_shape = (dim,)
        self.z_shape = (dim,)
        self._prior = StandardNormal() if prior == "normal" else None

    def posterior(self, code: Tensor) -> Point:
        return Point(code.float())

    def prior(self) -> StandardNormal | None:
        return self._prior
