"""Training loops as the PyTorch examples and a widely used toolkit write them, re-written from descriptions of what they do.

What costs them time is kept, for that is what is compared: passes made twice, gradients nobody uses, numbers read in every
step, optimisers and data loading left at their defaults. Each takes networks and a set of stored pictures, and returns a
function that trains one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Step = Callable[[], None]


def loader(x: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The default loader over a tensor in model space, shuffled, without workers."""
    while True:
        for (batch,) in DataLoader(TensorDataset(x), batch_size=batch_size, shuffle=True, drop_last=True):
            yield batch


def logit(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def vae(parts: dict[str, nn.Module], x: Tensor, batch_size: int, dim: int) -> Step:
    """The PyTorch VAE example: a summed loss, Adam as it comes, the loss read in every step."""
    encoder, decoder = parts["encoder"], parts["decoder"]
    optim = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    batches, total = loader(x, batch_size), 0.0

    def step() -> None:
        nonlocal total
        data = next(batches)
        optim.zero_grad()
        mean, logvar = encoder(data).chunk(2, 1)
        std = torch.exp(0.5 * logvar)
        recon = torch.sigmoid(2 * decoder(mean + torch.randn_like(std) * std))
        likeness = F.binary_cross_entropy(recon, (data + 1) / 2, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
        loss = likeness + kl
        loss.backward()
        total += loss.item()
        optim.step()

    return step


def dcgan(parts: dict[str, nn.Module], x: Tensor, batch_size: int, dim: int) -> Step:
    """The PyTorch DCGAN example: the critic judges real and generated batches apart, its gradients are made again in the
    generator's step and thrown away, five numbers are read in every step."""
    generator, critic = parts["decoder"], parts["discriminator.main"]
    optim_d = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optim_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    batches, criterion = loader(x, batch_size), nn.BCELoss()

    def step() -> None:
        data = next(batches)
        critic.zero_grad()
        label = torch.full((len(data),), 1.0)
        output = torch.sigmoid(logit(critic(data)))
        real_loss = criterion(output, label)
        real_loss.backward()
        output.mean().item()
        fake = torch.tanh(generator(torch.randn(len(data), dim)))
        label.fill_(0.0)
        output = torch.sigmoid(logit(critic(fake.detach())))
        fake_loss = criterion(output, label)
        fake_loss.backward()
        output.mean().item()
        optim_d.step()
        generator.zero_grad()
        label.fill_(1.0)
        output = torch.sigmoid(logit(critic(fake)))
        loss = criterion(output, label)
        loss.backward()
        output.mean().item()
        optim_g.step()
        (real_loss + fake_loss).item(), loss.item()

    return step


def wgan_gp(parts: dict[str, nn.Module], x: Tensor, batch_size: int, dim: int, critic_steps: int = 5) -> Step:
    """A popular WGAN-GP: fakes are not detached in the critic's steps, every pass is a pass of its own."""
    generator, critic = parts["decoder"], parts["discriminator.main"]
    optim_d = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optim_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    batches = loader(x, batch_size)

    def step() -> None:
        for _ in range(critic_steps):
            data = next(batches)
            optim_d.zero_grad()
            z = torch.randn(len(data), dim)
            fake = torch.tanh(generator(z))
            real_value, fake_value = logit(critic(data)), logit(critic(fake))
            share = torch.rand(len(data), 1, 1, 1)
            between = (share * data + (1 - share) * fake.data).requires_grad_(True)
            judged = logit(critic(between))
            slope = torch.autograd.grad(judged, between, torch.ones_like(judged), create_graph=True, retain_graph=True)[0]
            penalty = ((slope.view(len(data), -1).norm(2, dim=1) - 1) ** 2).mean()
            critic_loss = -real_value.mean() + fake_value.mean() + 10.0 * penalty
            critic_loss.backward()
            optim_d.step()
        optim_g.zero_grad()
        loss = -logit(critic(torch.tanh(generator(z)))).mean()
        loss.backward()
        optim_g.step()
        critic_loss.item(), loss.item()

    return step


EXAMPLES = {"vae": vae, "dcgan": dcgan, "wgan-gp": wgan_gp}
