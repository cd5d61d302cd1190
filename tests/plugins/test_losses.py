"""Each loss: value and gradient against a closed form or an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence

from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal
from hybridgen_losses.adversarial import Adversarial
from hybridgen_losses.kl import KL
from hybridgen_losses.reconstruction import Reconstruction


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_reconstruction_is_the_negative_log_likelihood_per_sample(likelihood: str, scale: float) -> None:
    x, raw = values(5, 3, 4).tanh().float(), values(5, 3, 4, seed=1).float().requires_grad_()
    recon = raw.tanh()
    loss = Reconstruction("tanh", likelihood=likelihood, scale=scale)(x, recon, raw)  # type: ignore[arg-type]
    family = {"gaussian": Normal, "laplace": Laplace}[likelihood]
    expected = -family(recon, scale).log_prob(x).sum() / 5
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, raw, retain_graph=True)[0] for v in (loss, expected)))


def test_bernoulli_works_on_the_raw_values_and_survives_extremes() -> None:
    x, raw = values(5, 6).tanh().float(), (20 * values(5, 6, seed=1)).float().requires_grad_()
    loss = Reconstruction("tanh", likelihood="bernoulli")(x, raw.tanh(), raw)
    target, logits = ((x + 1) / 2).double(), 2 * raw.double()
    expected = -(Bernoulli(logits=logits, validate_args=False).log_prob(target)).sum() / 5
    torch.testing.assert_close(loss.double(), expected)
    (gradient,) = torch.autograd.grad(loss, raw)
    torch.testing.assert_close(gradient, (2 * (torch.sigmoid(2 * raw) - (x + 1) / 2) / 5).detach())
    assert torch.isfinite(gradient).all()


def test_a_learned_scale_comes_to_the_root_mean_square_error() -> None:
    """d/d log(scale) of the gaussian term is D - sum(error^2) / scale^2: zero at the root mean square (Rybkin 2020)."""
    x, recon = values(64, 10).float(), torch.zeros(64, 10)
    loss = Reconstruction("identity", learn_scale=True)
    optim = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optim.zero_grad()
        loss(x, recon, recon).backward()
        optim.step()
    assert float(loss.log_scale.detach().exp()) == pytest.approx(float(x.square().mean().sqrt()), rel=1e-3)


def test_reconstruction_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match="bernoulli likelihood wants data in"):
        Reconstruction("identity", likelihood="bernoulli")
    with pytest.raises(ValueError, match="no scale to learn"):
        Reconstruction("tanh", likelihood="bernoulli", learn_scale=True)


def test_kl_is_a_sum_over_the_latent_and_a_mean_over_the_batch_in_nats() -> None:
    mean, logvar = values(7, 5).requires_grad_(), values(7, 5, seed=1).requires_grad_()
    posterior = DiagonalGaussian(mean, logvar)
    got = KL()(posterior, StandardNormal(), mean)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(torch.zeros(1), 1.0)).sum() / 7
    torch.testing.assert_close(got, expected)
    for parameter, slope in ((mean, mean / 7), (logvar, (logvar.exp() - 1) / 14)):
        torch.testing.assert_close(torch.autograd.grad(got, parameter, retain_graph=True)[0], slope.detach())
    assert float(KL()(DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3)), StandardNormal(), mean)) == 0.0


def test_adversarial_terms_at_known_logits() -> None:
    """Closed forms at logits -3, 0, 3; at equilibrium the discriminator's value is 2 log 2."""
    logits = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
    sigmoid = torch.sigmoid(logits).detach()
    for formulation, value, slope in (
        ("nonsaturating", -sigmoid.log(), sigmoid - 1),
        ("minimax", (1 - sigmoid).log(), -sigmoid),
    ):
        loss = Adversarial(formulation=formulation).generator(logits)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, value.mean())
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], slope / 3)
    loss = Adversarial().discriminator(logits, -logits)
    torch.testing.assert_close(loss, (-sigmoid.log() - (1 - torch.sigmoid(-logits)).log()).mean())
    zeros = torch.zeros(4, 2, 2)  # patch logits are averaged
    assert float(Adversarial().discriminator(zeros, zeros)) == pytest.approx(2 * math.log(2))
    assert float(Adversarial().generator(zeros)) == pytest.approx(math.log(2))


def test_adversarial_terms_stay_finite_where_a_sigmoid_saturates() -> None:
    logits = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = Adversarial().generator(logits)
    assert float(loss.detach()) == 500.0
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.tensor([-0.5, 0.0]))
