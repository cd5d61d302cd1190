"""Latents on a bounded set: the cube and the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.deterministic import Point
from hybridgen_latents.gaussian import Dim


@dataclass(frozen=True)
class UniformCube:
    """p(z) = 2^-d on [-1, 1]^d. Shapes: z `b d`."""

    def sample(self, noise: Tensor) -> Tensor:
        """2 Phi(noise) - 1, which is uniform where the noise is standard normal. Shapes: `b d` -> `b d`."""
        return torch.erf(noise / math.sqrt(2))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: -d log 2 within the cube, minus infinity outside. Shapes: `b d` -> `b`."""
        inside = (z.abs() <= 1).flatten(1).all(1)
        return torch.where(inside, -z[0].numel() * math.log(2), -math.inf)


class Uniform(nn.Module):
    """z uniform on the cube [-1, 1]^d, which an encoder's code enters through tanh: GAN noise, or an adversarial code.

    p(z) = 2^-d on [-1, 1]^d;  z = tanh(code)

    Shapes: code and z `b d`.
    Raises: ValueError from `kl`: the posterior is a point, whose KL is infinite.
    When: a GAN after DCGAN; an adversarial autoencoder whose codes should be bounded and independent (a critic with
        real = "z_prior", fake = "z"). For a VAE take "gaussian".
    Healthy: with an encoder, every dimension of z spread over [-1, 1], variance near 1/3. All at the edges: tanh is
        saturated and passes no gradient; the latent critic is too weak or its weight too low.
    Source: Radford et al. 2015 (arXiv:1511.06434), section 4; Makhzani et al. 2015 (arXiv:1511.05644), section 2.
    """

    def __init__(self, *, dim: Dim = 16) -> None:
        super().__init__()
        self.code_shape = (dim,)
        self.z_shape = (dim,)

    def posterior(self, code: Tensor) -> Point:
        return Point(code.float().tanh())

    def prior(self) -> UniformCube:
        return UniformCube()


@dataclass(frozen=True)
class UniformSphere:
    """The uniform distribution on the sphere of radius sqrt(d) in d dimensions. Shapes: z `b d`."""

    def sample(self, noise: Tensor) -> Tensor:
        """sqrt(d) noise / |noise|: a normal vector has no preferred direction. Shapes: `b d` -> `b d`."""
        return on_sphere(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of points on the sphere with respect to its surface, in nats: minus the log of the area.

        area = 2 pi^(d/2) / Gamma(d/2) * sqrt(d)^(d-1). Shapes: `b d` -> `b`, a constant.
        """
        d = z.shape[1]
        area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2) + (d - 1) / 2 * math.log(d)
        return z.new_full((z.shape[0],), -area)


def on_sphere(vector: Tensor) -> Tensor:
    """The point of the sphere of radius sqrt(d) in the vector's direction. Shapes: `b d` -> `b d`."""
    return math.sqrt(vector.shape[1]) * F.normalize(vector, dim=1)


class Sphere(nn.Module):
    """z uniform on the sphere of radius sqrt(d), on which an encoder's code is projected: only directions say something.

    z = sqrt(d) code / |code|;  p(z) = 1 / area of the sphere

    The radius is that of typical normal noise, so a decoder's first layer sees values of variance 1.

    Shapes: code and z `b d`.
    Raises: ValueError from `kl`: the posterior is a point, whose KL is infinite.
    When: GAN noise without rare long vectors; an adversarial or MMD autoencoder in whose code no length can grow or
        collapse. For a VAE take "gaussian".
    Healthy: with an encoder, each dimension of z has a mean near 0 and a variance near 1 over the data. A mean far from 0:
        the codes crowd in a cap. A line between two codes (`interpolate`) leaves the sphere.
    Source: Davidson et al. 2018 (arXiv:1804.00891), the uniform prior; as GAN noise Karras et al. 2017 (arXiv:1710.10196),
        appendix A.
    """

    def __init__(
        self, *, dim: Annotated[int, Field(ge=2, description="number of latent values; the sphere has one dimension less")] = 16
    ) -> None:
        super().__init__()
        self.code_shape = (dim,)
        self.z_shape = (dim,)

    def posterior(self, code: Tensor) -> Point:
        return Point(on_sphere(code.float()))

    def prior(self) -> UniformSphere:
        return UniformSphere()
