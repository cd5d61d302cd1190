"""An encoder that is its own decoder's critic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from hybridgen_losses.reconstruction import LikelihoodAt, Reconstruction


class SoftIntrospective(nn.Module):
    """Soft-IntroVAE: the encoder gives data a high ELBO and generated samples a low one, the decoder makes both high.

    energy(x) = (|x - recon|^2 / (2 scale^2) + KL) / n, minus the ELBO of a Gaussian for each of the n values of a sample, but
    for its constant; a generated sample has fake_recon and the KL of fake_posterior in their place

    discriminator  energy(x) + r mean exp(-alpha energy(fake)) / alpha,  with `beta_neg` times the KL of the generated
    generator      (|x - recon|^2 / (2 scale^2) + r gamma KL(fake_posterior)) / n

    r rises from 0 to 1 during the first `warm_up` of the run, which begins as that of a plain VAE: a decoder that plays before
    its encoder knows the data finds pictures of no kind that the encoder takes for likely.

    `[players] discriminator = ["encoder"]` makes the encoder the critic; there is no other. The paper's decoder has the
    reconstruction of generated samples with a weight of 1e-8 as well: that is left out here, with the passes it costs.

    Shapes: x, recon, fake, fake_recon `b ...`, posterior and fake_posterior over z_shape; both return a scalar.
    Raises: ValueError for a posterior that has no KL (deterministic).
    When: in place of `reconstruction`, `kl` and a critic: sharper samples than a VAE's, with reconstructions and an encoder
        that tells data from other things. It wants a pass of each network more than a VAE and a critic.
    Healthy: the generator's term falls as a VAE's does; the discriminator's settles a little above its real part: the
        exponential stays between 0.05 and 0.5. At 0 the encoder has won: a smaller `beta_neg` or `alpha`; at 1 it sees no
        difference.
    Source: Daniel & Tamar 2020 (arXiv:2012.13253), equation 3 and algorithm 1; alpha = 2 and n there as well.
    """

    quantities = ("log_likelihood", "log_likelihood_at")

    def __init__(
        self,
        output_activation: str,
        *,
        scale: Annotated[float, Field(gt=0, description="standard deviation of x around recon, model space")] = 0.3,
        alpha: Annotated[float, Field(gt=0, description="how sharply the encoder tells generated samples by their ELBO")] = 2.0,
        beta_neg: Annotated[float, Field(gt=0, description="weight of a generated sample's KL in the encoder's term")] = 8.0,
        gamma: Annotated[float, Field(gt=0, description="weight of a generated sample's KL in the decoder's term")] = 1.0,
        warm_up: Annotated[float, Field(ge=0, le=1, description="fraction of the run during which the game sets in")] = 0.3,
    ) -> None:
        super().__init__()
        self.likelihood = Reconstruction(output_activation, scale=scale)
        self.scale = scale
        self.alpha = alpha
        self.beta_neg = beta_neg
        self.gamma = gamma
        self.warm_up = warm_up

    def log_likelihood(self, x: Tensor, recon: Tensor, recon_raw: Tensor) -> Tensor:
        """log p(x|z) of each sample in nats, as `reconstruction` offers it. Shapes: `b ...` -> `b`."""
        return self.likelihood.log_likelihood(x, recon, recon_raw)

    def log_likelihood_at(self, x: Tensor, decode: Any) -> LikelihoodAt:
        """The same at any z, as `reconstruction` offers it."""
        return self.likelihood.log_likelihood_at(x, decode)

    def _distance(self, x: Tensor, recon: Tensor) -> Tensor:
        return 0.5 * ((x.float() - recon.float()) / self.scale).square().flatten(1).sum(1)

    def discriminator(
        self,
        x: Tensor,
        recon: Tensor,
        posterior: Any,
        z: Tensor,
        prior: Any,
        fake: Tensor,
        fake_recon: Tensor,
        fake_posterior: Any,
        fake_z: Tensor,
        progress: Tensor,
    ) -> Tensor:
        size = x[0].numel()
        real = (self._distance(x, recon) + posterior.kl(prior, z)) / size
        generated = (self._distance(fake, fake_recon) + self.beta_neg * fake_posterior.kl(prior, fake_z)) / size
        return real.mean() + self._ramp(progress) * (-self.alpha * generated).exp().mean() / self.alpha

    def generator(self, x: Tensor, recon: Tensor, prior: Any, fake_posterior: Any, fake_z: Tensor, progress: Tensor) -> Tensor:
        cost = self._ramp(progress) * self.gamma * fake_posterior.kl(prior, fake_z)
        return (self._distance(x, recon) + cost).mean() / x[0].numel()

    def _ramp(self, progress: Tensor) -> Tensor | float:
        return (progress / self.warm_up).clamp(max=1.0) if self.warm_up else 1.0
