"""The VampPrior: the encoder's own posteriors, at inputs that are learned, as the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import DiagonalGaussian, Dim, Limit, diagonal_gaussian
from hybridgen_latents.mixture import Components, Mixture


class Vamp(nn.Module):
    """A diagonal Gaussian posterior whose prior is the mean of the encoder's posteriors at learned pseudo-inputs.

    p(z) = 1/K sum_k q(z | u_k);  KL = E_q[log q(z|x) - log p(z)], estimated at one z a sample

    The best prior for the ELBO is the mean posterior of the data; K pseudo-inputs u_k, in model space (through tanh for
    pictures, softmax for tokens), stand in for the data. Each step costs one more pass of the encoder, on K inputs. The
    prior has a gradient to the pseudo-inputs and to the encoder. The encoder must ask for `x` alone.

    Shapes: code `b (2 d)`; z `b d`; pseudo-inputs `k *sample_shape`.
    When: samples look worse than reconstructions, and "gaussian-mixture" is not enough; or much of the code is silent.
    Healthy: reconstruction and KL together end below those of "gaussian", more units are active. Pseudo-inputs drift from
        noise to something like the data; all alike: fewer `components` do.
    Source: Tomczak & Welling 2017 (arXiv:1705.07120), equation 9.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: Literal["tanh", "identity", "softmax"],
        *,
        dim: Dim = 16,
        components: Components = 100,
        spread: Annotated[
            float, Field(gt=0, description="standard deviation of the initial pseudo-inputs, before the activation")
        ] = 1.0,
        limit: Limit = 20.0,
    ) -> None:
        super().__init__()
        self.code_shape = (2 * dim,)
        self.z_shape = (dim,)
        self.limit = limit
        self.activation = output_activation
        self.raw = nn.Parameter(spread * torch.randn(components, *sample_shape))

    def pseudo_inputs(self) -> Tensor:
        """The u_k in model space, `k *sample_shape`."""
        if self.activation == "tanh":
            return self.raw.tanh()
        return self.raw.softmax(-1) if self.activation == "softmax" else self.raw

    def posterior(self, code: Tensor) -> DiagonalGaussian:
        return diagonal_gaussian(code, self.limit)

    def prior(self, encode: Callable[[Tensor], Tensor]) -> Mixture:
        """1/K sum_k q(z | u_k), with a gradient to pseudo-inputs and encoder."""
        others = getattr(encode, "keywords", {})
        if others:
            raise ValueError(
                f"vamp's pseudo-inputs have no {' and no '.join(others)} of their own, which this encoder asks for; use an "
                'encoder that asks for `x` alone, or use = "gaussian-mixture"'
            )
        components = diagonal_gaussian(encode(self.pseudo_inputs()), self.limit)
        equal = torch.full_like(components.mean[:, 0], -math.log(len(self.raw)))
        return Mixture(components.mean, components.logvar, equal)
