"""Shipped recipes as loops written by hand: what somebody who knows PyTorch well writes in an afternoon for one model.

Each takes a prepared run and returns a function of a step's batches. Networks, data, arithmetic and schedule are the
recipe's; all else is here to be read. Nothing is checked, scheduled, logged, saved, routed or resumed. `draw` makes noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen.session import Prepared

Batches = Sequence[Mapping[str, Tensor]]
Draw = Callable[..., Tensor]


def noise(kind: str, *shape: int) -> Tensor:
    return torch.rand(shape) if kind == "uniform" else torch.randn(shape)


def adam(prepared: Prepared, player: str, *modules: nn.Module) -> torch.optim.Optimizer:
    spec = prepared.recipe.optim[player]
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.Adam(parameters, lr=spec.lr.at(1, 1), betas=spec.betas, eps=spec.eps, fused=True)


def averaging(prepared: Prepared, *modules: nn.Module) -> Callable[[int], None]:
    """The moving average of the generator's side, as the recipe has it."""
    source = [p for module in modules for p in module.parameters()]
    target = [p.detach().clone() for p in source]

    @torch.no_grad()
    def update(step: int) -> None:
        decay = min(prepared.recipe.train.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(target, source, 1 - decay)

    return update


def judge(critic: nn.Module, *batches: Tensor) -> list[Tensor]:
    """Logits of some batches: one pass for all, or one each where batch norm would mix them."""
    sizes = [len(x) for x in batches]
    mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    found = [critic(x) for x in (batches if mixes else [torch.cat(batches)])]
    logits = torch.cat([f[0] if isinstance(f, tuple) else f for f in found])
    return list(logits.split(sizes))


def judged_frozen(critic: nn.Module, fake: Tensor) -> Tensor:
    """Logits through which only the generator learns."""
    critic.requires_grad_(False)
    (logits,) = judge(critic, fake)
    critic.requires_grad_(True)
    return logits


def learn_to_judge(critic: nn.Module, optim: torch.optim.Optimizer, x: Tensor, shown: Tensor) -> Tensor:
    """The critic's update in the non-saturating game; returns its loss."""
    real_logits, fake_logits = judge(critic, x, shown)
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    optim.zero_grad(set_to_none=True)
    loss.backward()
    optim.step()
    return loss


def decode(decoder: nn.Module, *latents: Tensor) -> list[Tensor]:
    sizes = [len(z) for z in latents]
    mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in decoder.modules())
    raw = [decoder(z) for z in (latents if mixes else [torch.cat(latents)])]
    return list(torch.tanh(torch.cat(raw)).split(sizes))


def nats(x: Tensor, recon: Tensor, log_scale: Tensor) -> Tensor:
    squared = ((x - recon) * torch.exp(-log_scale)).square().flatten(1).sum(1)
    return (0.5 * squared + x[0].numel() * (log_scale + 0.5 * math.log(2 * math.pi))).mean()


def elbo_terms(parts: Mapping[str, Any], x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL in nats."""
    mean, logvar = parts["encoder"](x).chunk(2, 1)
    logvar = logvar.clamp(-20.0, 20.0)
    z = mean + torch.exp(0.5 * logvar) * noise
    recon = torch.tanh(parts["decoder"](z))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    return nats(x, recon, parts["loss.reconstruction"].log_scale.clamp(-7.0, 7.0)), kl


def vae(prepared: Prepared, draw: Draw = noise) -> Callable[[Batches], dict[str, Tensor]]:
    parts, dim, steps = prepared.model.parts, prepared.model.parts["latent"].z_shape[0], prepared.recipe.train.steps
    modules, kl_weight = (parts["encoder"], parts["decoder"], parts["loss.reconstruction"]), prepared.recipe.losses["kl"].weight
    optim, average, count = adam(prepared, "generator", *modules), averaging(prepared, *modules), 0
    terms = torch.compile(elbo_terms) if prepared.choices.compile else elbo_terms

    def step(batches: Batches) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        x = batches[0]["x"]
        recon, kl = terms(parts, x, draw("normal", len(x), dim))
        loss = recon + kl_weight.at(count, steps) * kl
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        average(count)
        return {"loss.reconstruction": recon.detach(), "loss.kl": kl.detach()}

    return step


def gan(prepared: Prepared, draw: Draw = noise) -> Callable[[Batches], dict[str, Tensor]]:
    """DCGAN: batch norm, so real and generated batches are judged apart; noise from [-1, 1)."""
    parts, dim = prepared.model.parts, prepared.model.parts["latent"].z_shape[0]
    decoder, critic = parts["decoder"], parts["discriminator.main"]
    optim_g, optim_d = adam(prepared, "generator", decoder), adam(prepared, "discriminator", critic)
    average, count = averaging(prepared, decoder), 0

    def step(batches: Batches) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        x = batches[0]["x"]
        fake = torch.tanh(decoder(2 * draw("uniform", len(x), dim) - 1))
        critic_loss = learn_to_judge(critic, optim_d, x, fake.detach())
        loss = F.softplus(-judged_frozen(critic, fake)).mean()
        optim_g.zero_grad(set_to_none=True)
        loss.backward()
        optim_g.step()
        average(count)
        return {"loss.adversarial": loss.detach(), "loss.adversarial.discriminator": critic_loss.detach()}

    return step


def vagan(prepared: Prepared, draw: Draw = noise) -> Callable[[Batches], dict[str, Tensor]]:
    parts, dim, steps = prepared.model.parts, prepared.model.parts["latent"].z_shape[0], prepared.recipe.train.steps
    decoder, critic = parts["decoder"], parts["discriminator.main"]
    modules = parts["encoder"], decoder, parts["loss.reconstruction"]
    optim_g, optim_d = adam(prepared, "generator", *modules), adam(prepared, "discriminator", critic)
    weight, kl_weight = prepared.recipe.losses["adversarial"].weight.at(1, 1), prepared.recipe.losses["kl"].weight
    average, count = averaging(prepared, *modules), 0

    def step(batches: Batches) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        x = batches[0]["x"]
        size = len(x)
        e, z_prior = draw("normal", size, dim), draw("normal", size, dim)
        mean, logvar = parts["encoder"](x).chunk(2, 1)
        logvar = logvar.clamp(-20.0, 20.0)
        z = mean + torch.exp(0.5 * logvar) * e
        recon, fake = decode(decoder, z, z_prior)
        critic_loss = learn_to_judge(critic, optim_d, x, fake.detach())
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        reconstruction = nats(x, recon, parts["loss.reconstruction"].log_scale.clamp(-7.0, 7.0))
        adversarial = F.softplus(-judged_frozen(critic, fake)).mean()
        loss = reconstruction + kl_weight.at(count, steps) * kl + weight * adversarial
        optim_g.zero_grad(set_to_none=True)
        loss.backward()
        optim_g.step()
        average(count)
        return {
            "loss.reconstruction": reconstruction.detach(),
            "loss.kl": kl.detach(),
            "loss.adversarial": adversarial.detach(),
            "loss.adversarial.discriminator": critic_loss.detach(),
        }

    return step


def wgan_gp(prepared: Prepared, draw: Draw = noise) -> Callable[[Batches], dict[str, Tensor]]:
    parts, dim = prepared.model.parts, prepared.model.parts["latent"].z_shape[0]
    decoder, critic = parts["decoder"], parts["discriminator.main"]
    optim_g, optim_d = adam(prepared, "generator", decoder), adam(prepared, "discriminator", critic)
    strength = prepared.recipe.losses["penalty"].discriminator_weight.at(1, 1)
    average, count = averaging(prepared, decoder), 0

    def step(batches: Batches) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        for i, batch in enumerate(batches):
            x = batch["x"]
            z = draw("normal", len(x), dim)
            if i == len(batches) - 1:
                fake = torch.tanh(decoder(z))
            else:
                with torch.no_grad():
                    fake = torch.tanh(decoder(z))
            shown = fake.detach()
            real_logits, fake_logits = judge(critic, x, shown)
            critic_loss = fake_logits.mean() - real_logits.mean()
            between = torch.lerp(x, shown, draw("uniform", len(x)).view(-1, 1, 1, 1)).requires_grad_()
            (slope,) = torch.autograd.grad(judge(critic, between)[0].sum(), between, create_graph=True)
            penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            optim_d.zero_grad(set_to_none=True)
            (critic_loss + strength * penalty).backward()
            optim_d.step()
        loss = -judged_frozen(critic, fake).mean()
        optim_g.zero_grad(set_to_none=True)
        loss.backward()
        optim_g.step()
        average(count)
        return {"loss.adversarial": loss.detach(), "loss.adversarial.discriminator": critic_loss.detach()}

    return step


COMPILED = {"vae-digits", "vae-mlp"}
"""Those that compile their losses where the choices say so."""

LOOPS = {"vae-digits": vae, "vae-mlp": vae, "dcgan": gan, "vagan-digits": vagan, "wgan-gp": wgan_gp}
