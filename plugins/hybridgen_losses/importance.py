"""A tighter bound of the likelihood, from several samples of the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen.graph import detach
from hybridgen_losses.reconstruction import LikelihoodAt, Reconstruction


class ImportanceWeighted(nn.Module):
    """The negative importance-weighted bound of log p(x), averaged over the batch, in nats per sample: IWAE.

    loss = -log(1/K sum_k w_k),  w_k = p(x|z_k) p(z_k) / q(z_k|x),  z_1 ... z_K samples of q(z|x), K = `samples`

    K = 1 is the negative ELBO at one sample; it tightens with K, to -log p(x). p(x|z) and its options are those of
    `reconstruction`. It takes K decoder passes, made as one call.

    The encoder's gradient: `reparameterised` is the plain one, whose signal drowns in noise as K grows; `doubly`
    has the same expectation with less variance: sum_k (w_k / sum w)^2 dlog w_k/dz_k dz_k/dphi, q's parameters held fixed
    in log w. It costs another backward pass through the decoder. All else (decoder, prior, scale) learns alike in both.

    Shapes: x `b ...`, points `b k ...` (noise of its own), posterior over z_shape; returns a scalar in nats per sample.
    Raises: ValueError for a posterior without a density or with noise not shaped like z, for a decoder that can't be
        vectorised (batch norm), and as `reconstruction` does.
    When: in place of `reconstruction` and `kl` both, for a better density model, or for posteriors freer than a Gaussian:
        q need only cover the true posterior. K 5 to 50; from about 10 on with gradient = "doubly".
    Healthy: falls, and lies below the negative ELBO (`elbo`, whose sign is turned). The gap shows how far q is from the true
        posterior; if it is many nats, a few of the K samples carry all weight: raise K or the encoder's width.
    Source: Burda et al. 2015 (arXiv:1509.00519), equation 8; doubly: Tucker et al. 2018 (arXiv:1810.04152), DReG; noise
        of the plain gradient: Rainforth et al. 2018 (arXiv:1802.04537).
    """

    quantities = ("log_likelihood", "log_likelihood_at")

    def __init__(
        self,
        output_activation: str,
        z_shape: tuple[int, ...],
        *,
        samples: Annotated[int, Field(ge=1, description="K, samples of the posterior for each x")] = 5,
        gradient: Annotated[
            Literal["reparameterised", "doubly"], Field(description="estimator of the encoder's gradient")
        ] = "reparameterised",
        likelihood: Annotated[
            Literal["gaussian", "bernoulli", "laplace"], Field(description="distribution of x around recon")
        ] = "gaussian",
        scale: Annotated[float, Field(gt=0, description="standard deviation (gaussian) or width (laplace), model space")] = 1.0,
        learn_scale: Annotated[bool, Field(description="learn one scale for all values, starting from `scale`")] = False,
    ) -> None:
        super().__init__()
        self.draws = {"points": ("normal", (samples, *z_shape))}
        self.gradient = gradient
        self.likelihood = Reconstruction(output_activation, likelihood=likelihood, scale=scale, learn_scale=learn_scale)

    def log_likelihood(self, x: Tensor, recon: Tensor, recon_raw: Tensor) -> Tensor:
        """log p(x|z) of each sample in nats, as `reconstruction` offers it. Shapes: `b ...` -> `b`."""
        return self.likelihood.log_likelihood(x, recon, recon_raw)

    def log_likelihood_at(self, x: Tensor, decode: Callable[..., Tensor]) -> LikelihoodAt:
        """The same at any z, as `reconstruction` offers it."""
        return self.likelihood.log_likelihood_at(x, decode)

    def forward(self, x: Tensor, posterior: Any, prior: Any, decode: Callable[..., Tensor], points: Tensor) -> Tensor:
        if not callable(getattr(posterior, "log_prob", None)):
            raise ValueError(
                f"iwae needs the posterior's density, a {type(posterior).__name__} has no log_prob; "
                'write [latent] use = "gaussian", or use = "reconstruction"'
            )
        noise_shape = "draws noise shaped like z, which this posterior's sample does not take"
        z = _of_each(posterior.sample, points, 1, noise_shape)  # k b ...
        if self.gradient == "reparameterised":
            return -_log_mean_exp(self.log_weights(x, posterior, prior, decode, z)).mean()

        def total(z: Tensor) -> tuple[Tensor, Tensor]:
            log_w = self.log_weights(x, detach(posterior), prior, decode, z)
            return log_w.sum(), log_w

        slope, log_w = torch.func.grad(total, has_aux=True)(z.detach())  # dlog w_k/dz_k; k b
        share = log_w.detach().softmax(0)
        # linear in z: its gradient is the estimate, its value means nothing
        path = (share.square() * (slope.detach() * z).flatten(2).sum(2)).sum(0)
        return -(_log_mean_exp(log_w) + path - path.detach()).mean()

    def log_weights(self, x: Tensor, posterior: Any, prior: Any, decode: Callable[..., Tensor], z: Tensor) -> Tensor:
        """log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x). Shapes: x `b ...`, z `k b ...`; returns `k b`."""

        at = self.log_likelihood_at(x, decode)

        def one(z: Tensor) -> Tensor:
            return at(z) + prior.log_prob(z) - posterior.log_prob(z)

        return _of_each(
            one,
            z,
            0,
            "decodes its samples in one vectorised call, in which this decoder fails; batch norm can't be vectorised: write "
            'norm = "group", or use = "reconstruction" and "kl"',
        )


def _of_each(function: Callable[[Tensor], Tensor], values: Tensor, axis: int, what: str) -> Tensor:
    """A function of each of the K samples, vectorised, the samples first. Raises ValueError that says `what` where it can't."""
    try:
        return torch.func.vmap(function, in_dims=axis, randomness="different")(values)
    except RuntimeError as error:
        raise ValueError(f"iwae {what} ({error})") from error


def _log_mean_exp(log_w: Tensor) -> Tensor:
    """Over the first axis. Shapes: `k b` -> `b`."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])
