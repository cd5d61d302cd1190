"""Discrete codes: a learned codebook (VQ-VAE), and a fixed grid (finite scalar quantisation)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import Dim
from hybridgen_latents.spatial import Halvings, sides

USED = 0.01
"""A code counts as used if it is chosen at least this share as often as if all were chosen alike."""

SMOOTHING = 1e-5
"""Laplace smoothing of a code's count, in units of the mean count."""

Decay = Annotated[float, Field(ge=0, lt=1, description="of the moving averages: what a step keeps of the past")]
Prior = Annotated[
    Literal["none", "uniform"],
    Field(description="what z_prior is drawn from: every code alike at each position, or nothing, without sampling"),
]


@dataclass(frozen=True)
class Quantised:
    """A posterior with all its mass on one code a position. Shapes: mean `b d ...`, indices `b ...`, long."""

    mean: Tensor
    indices: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The quantised code, whatever the noise."""
        return self.mean

    def kl(self, prior: Any, z: Tensor | None = None) -> Tensor:
        """-log p(z) in nats, `b`: log K a position for the uniform prior, a constant that trains nothing.

        Source: van den Oord et al. 2017 (arXiv:1711.00937), section 3.1.
        """
        return -prior.log_prob(self.mean)


def straight_through(value: Tensor, code: Tensor) -> Tensor:
    """`value` forward, to the bit; backward the gradient goes to `code` as it is."""
    return value.detach() + (code - code.detach())


def counted(indices: Tensor, codes: int) -> Tensor:
    """How often each sample chooses each code. Shapes: indices `b ...`; returns `b k`, float32."""
    flat = indices.view(len(indices), -1)  # b p
    zeros = torch.zeros(len(flat), codes, device=indices.device)
    return zeros.scatter_add(1, flat, torch.ones_like(flat, dtype=zeros.dtype))


def shares(flat: Tensor, codes: int) -> Tensor:
    """How often a batch chooses each code, as shares of 1. Shapes: flat indices `n`; returns `k`."""
    return torch.zeros(codes, device=flat.device).index_add_(0, flat, torch.ones(len(flat), device=flat.device)) / len(flat)


def perplexity(frequency: Tensor) -> Tensor:
    """exp(entropy) of how often codes are chosen, from 1 (one alone) to K (all alike). Shapes: `k`, of any sum."""
    share = frequency / frequency.sum()
    return torch.special.entr(share).sum().exp()


def usage(frequency: Tensor) -> Tensor:
    """The share of the codes that are used (USED). Shapes: `k`, of any sum."""
    return (frequency >= USED * frequency.mean()).float().mean()


class VectorQuantised(nn.Module):
    """Each position's vector becomes the nearest of K codes: the discrete latent of VQ-VAE and VQGAN.

    indices = argmin_k |code - e_k|^2;  z = e_indices, backward as if z = code (straight-through)

    codebook = "ema": e_k is a moving average of the vectors that chose it, no gradient:
        N_k <- decay N_k + (1 - decay) n_k / n;  m_k <- decay m_k + (1 - decay) sum(vectors of k) / n;  e_k = m_k / N_k
    with n vectors in a batch, n_k of them with code k, N_k smoothed (Laplace). codebook = "gradient": e_k is a parameter
    that the loss "quantisation" moves. With `revive`, a code whose N_k falls below `revive` times the mean becomes a vector
    of the batch, chosen at random; unseen codes start that way, so the first batch makes the codebook.

    Shapes: code, z `b d h w`, indices `b h w`; without `halvings` code, z `b d`, indices `b`. Offers `indices`, `quantised`
        (z without history), `code_counts` (`b k`), and with a gradient codebook `nearest` (z with a gradient to the codebook).
    Raises: ValueError for `halvings` of data that are no pictures, or too many.
    When: sharp reconstructions, and codes for a later sequence model; with the loss "quantisation" beside it.
        "finite-scalar" needs neither that loss nor revival.
    Healthy: `perplexity` rises to a good part of K, `usage` above 0.9. Perplexity of a few codes: collapse; lower the learning
        rate, raise `revive`, or narrow the code (`dim`).
    Source: van den Oord et al. 2017 (arXiv:1711.00937), equations 1 to 3, appendix A.1; revival after Dhariwal et al. 2020
        (arXiv:2005.00341), section 3.1.
    """

    reports = ("perplexity", "usage")
    quantities: tuple[str, ...] = ("indices", "quantised", "code_counts", "nearest")

    codes: Tensor
    counts: Tensor  # N_k
    sums: Tensor  # m_k; exists with codebook = "ema"
    moved: Tensor  # what revival added; exists with codebook = "gradient"
    frequency: Tensor  # N_k as it would be without revival
    perplexity: Tensor
    usage: Tensor

    def __init__(
        self,
        sample_shape: tuple[int, ...] | None = None,
        *,
        codes: Annotated[int, Field(ge=2, description="codes in the codebook, K")] = 512,
        dim: Dim = 64,
        halvings: Halvings = None,
        codebook: Annotated[
            Literal["ema", "gradient"], Field(description="how the codebook learns: moving average, or gradient")
        ] = "ema",
        decay: Decay = 0.99,
        revive: Annotated[
            float, Field(ge=0, lt=1, description="codes chosen less than this share of the mean are replaced; 0: never")
        ] = 0.01,
        prior: Prior = "none",
    ) -> None:
        super().__init__()
        plane = sides(sample_shape, halvings, "vector-quantised")
        self.z_shape = (dim, *plane)
        self.code_shape = self.z_shape
        self.decay = decay
        self.revive = revive
        self.averaged = codebook == "ema"
        if self.averaged:
            self.quantities = tuple(name for name in self.quantities if name != "nearest")
        self.draws = {"revival": ("uniform", plane)} if revive else {}
        self._prior = prior
        # near the origin every direction is some code's
        initial = torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes)
        # without revival the initial codes count as chosen alike; with it they start dead
        self.register_buffer("counts", torch.full((codes,), 0.0 if revive else 1 / codes))
        if self.averaged:
            self.register_buffer("codes", initial)
            self.register_buffer("sums", initial * self.counts.unsqueeze(1))
        else:
            # revival leaves the parameter alone, and with it the optimiser's state and the averaged weights
            self.codes = nn.Parameter(initial)
            self.register_buffer("moved", torch.zeros(codes, dim))
        self.register_buffer("frequency", torch.zeros(codes))
        self.register_buffer("perplexity", torch.zeros(()))
        self.register_buffer("usage", torch.zeros(()))

    def codebook(self) -> Tensor:
        """The codes e_k, `k d`."""
        return self.codes if self.averaged else self.codes + self.moved

    def posterior(self, code: Tensor) -> Quantised:
        code = code.float()
        indices = nearest_code(code.detach(), self.codebook().detach())
        return Quantised(straight_through(looked_up(self.codebook(), indices), code), indices)

    def prior(self) -> UniformCodes | None:
        return UniformCodes(self.codebook()) if self._prior == "uniform" else None

    def indices(self, posterior: Quantised) -> Tensor:
        """The code chosen at each position, `b ...`."""
        return posterior.indices

    def quantised(self, posterior: Quantised) -> Tensor:
        """The chosen codes without history, like z."""
        return posterior.mean.detach()

    def nearest(self, posterior: Quantised) -> Tensor:
        """The chosen codes with a gradient to the codebook and none to the encoder, like z."""
        return looked_up(self.codebook(), posterior.indices)

    def code_counts(self, posterior: Quantised) -> Tensor:
        """How often each sample chooses each code, `b k`."""
        return counted(posterior.indices, len(self.codes))

    def update(self, code: Tensor, indices: Tensor, revival: Tensor | None = None) -> None:
        """Move the averages by one batch, then the codes, then replace dead ones (in this order)."""
        vectors = rearrange(code.float(), "b d ... -> (b ...) d")
        flat = indices.flatten()
        share = shares(flat, len(self.counts))
        self.frequency.lerp_(share, 1 - self.decay)
        self.perplexity.copy_(perplexity(self.frequency))
        self.usage.copy_(usage(self.frequency))
        self.counts.lerp_(share, 1 - self.decay)
        mean = self.counts.mean()
        if self.averaged:
            total = torch.zeros_like(self.sums).index_add_(0, flat, vectors)
            self.sums.lerp_(total / len(flat), 1 - self.decay)
            smooth = (self.counts + SMOOTHING * mean) / (1 + SMOOTHING)
            self.codes.copy_(self.sums / smooth.unsqueeze(1))
        if revival is None:
            return
        dead = self.counts < self.revive * mean
        order = revival.flatten().argsort()  # of the batch's vectors; the j-th dead code takes the j-th
        fresh = vectors[order[(dead.cumsum(0) - 1) % len(order)]]  # k d
        self.counts.copy_(torch.where(dead, mean, self.counts))
        dead = dead.unsqueeze(1)
        if self.averaged:
            self.codes.copy_(torch.where(dead, fresh, self.codes))
            self.sums.copy_(torch.where(dead, fresh * mean, self.sums))
        else:
            self.moved.copy_(torch.where(dead, fresh - self.codes, self.moved))


def nearest_code(code: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest code. Shapes: code `b d ...`, codebook `k d`; returns `b ...`."""
    vectors = rearrange(code, "b d ... -> (b ...) d")
    distance = torch.addmm(0.5 * codebook.square().sum(1), vectors, codebook.T, alpha=-1)  # half of it, less |vector|^2 / 2
    return distance.argmin(1).view(len(code), *code.shape[2:])


def looked_up(codebook: Tensor, indices: Tensor) -> Tensor:
    """The codes of indices. Shapes: codebook `k d`, indices `b ...`; returns `b d ...`."""
    return F.embedding(indices, codebook).movedim(-1, 1)


@dataclass(frozen=True)
class UniformCodes:
    """Every code alike and independently at each position. Shapes: codebook `k d`; z `b d ...`."""

    codebook: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A code a position, number floor(K Phi(noise_0)). Shapes: noise `b d ...` standard normal; returns z."""
        codes = len(self.codebook)
        u = torch.special.ndtr(noise[:, 0])
        return looked_up(self.codebook, (u * codes).long().clamp(max=codes - 1))

    def log_prob(self, z: Tensor) -> Tensor:
        """-log K a position in nats, for z made of codes. Shapes: z `b d ...`; returns `b`, a constant."""
        return z.new_full((len(z),), -z[0, 0].numel() * math.log(len(self.codebook)))


class FiniteScalar(nn.Module):
    """Each value of the code is bounded and rounded to one of a few levels: a codebook that is a grid, and can't collapse.

    h = (L - 1)(1 - 0.001) / 2;  o = 1/2 for even L, else 0;  z = round(h tanh(code + tan(o / h)) - o) / floor(L / 2)

    for a dimension of L levels, rounding straight-through. K is the product of the levels; indices count them in mixed
    radix, the first dimension fastest.

    Shapes: code, z `b d h w` with d = len(levels), indices `b h w`; without `halvings` code, z `b d`, indices `b`.
        Offers `indices` and `code_counts` (`b k`).
    Raises: ValueError for a dimension of fewer than 2 levels, more than 2^20 codes, `halvings` of data that are no pictures,
        or too many.
    When: discrete codes without codebook loss, revival or their tuning; "vector-quantised" reconstructs better with few codes
        (K below about 2^10).
    Healthy: `usage` near 1 soon, `perplexity` a good part of K. It stays at a tenth of K: dimensions of fewer than 5 levels,
        whose middle is wide, often stay in it.
    Source: Mentzer et al. 2023 (arXiv:2309.15505), section 3.1 and appendix A.1; levels as in table 1.
    """

    reports = ("perplexity", "usage")
    quantities = ("indices", "code_counts")

    levels: Tensor
    scale: Tensor
    offset: Tensor
    shift: Tensor
    width: Tensor
    basis: Tensor
    frequency: Tensor
    perplexity: Tensor
    usage: Tensor

    def __init__(
        self,
        sample_shape: tuple[int, ...] | None = None,
        *,
        levels: Annotated[tuple[int, ...], Field(description="levels of each dimension, each at least 2")] = (8, 5, 5, 5),
        halvings: Halvings = None,
        decay: Decay = 0.99,
        prior: Prior = "none",
    ) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"finite-scalar: levels = {list(levels)}; write one number a dimension, each at least 2")
        if math.prod(levels) > 2**20:
            raise ValueError(f"finite-scalar: levels = {list(levels)} make {math.prod(levels)} codes; write at most {2**20}")
        self.z_shape = (len(levels), *sides(sample_shape, halvings, "finite-scalar"))
        self.code_shape = self.z_shape
        self.size = math.prod(levels)
        self.decay = decay
        self._prior = prior
        half = [(n - 1) * (1 - 1e-3) / 2 for n in levels]
        offset = [0.5 if n % 2 == 0 else 0.0 for n in levels]
        constants = {
            "levels": list(levels),
            "scale": half,
            "offset": offset,
            "shift": [math.tan(o / h) for o, h in zip(offset, half, strict=True)],
            "width": [n // 2 for n in levels],
            "basis": [math.prod(levels[:i]) for i in range(len(levels))],
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.register_buffer("frequency", torch.zeros(self.size))
        self.register_buffer("perplexity", torch.zeros(()))
        self.register_buffer("usage", torch.zeros(()))

    def posterior(self, code: Tensor) -> Quantised:
        last = code.float().movedim(1, -1)  # b ... d
        bounded = self.scale * torch.tanh(last + self.shift) - self.offset
        whole = bounded.detach().round()
        indices = ((whole + self.width) * self.basis).sum(-1).long()
        return Quantised((straight_through(whole, bounded) / self.width).movedim(-1, 1), indices)

    def codes_of(self, indices: Tensor) -> Tensor:
        """The inverse of the numbering: the z of indices. Shapes: indices `b ...`; returns `b d ...`."""
        digits = indices.unsqueeze(-1) // self.basis.long() % self.levels.long()
        return ((digits - self.width) / self.width).movedim(-1, 1)

    def prior(self) -> UniformGrid | None:
        return UniformGrid(self.levels) if self._prior == "uniform" else None

    def indices(self, posterior: Quantised) -> Tensor:
        """The number of the code at each position, `b ...`."""
        return posterior.indices

    def code_counts(self, posterior: Quantised) -> Tensor:
        """How often each sample chooses each code, `b k`."""
        return counted(posterior.indices, self.size)

    def update(self, indices: Tensor) -> None:
        """Move how often each code was chosen by one batch."""
        self.frequency.lerp_(shares(indices.flatten(), self.size), 1 - self.decay)
        self.perplexity.copy_(perplexity(self.frequency))
        self.usage.copy_(usage(self.frequency))


@dataclass(frozen=True)
class UniformGrid:
    """Every point of a grid alike and independently at each position. Shapes: levels `d`; z `b d ...`."""

    levels: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Level floor(L Phi(noise)) of each dimension. Shapes: noise `b d ...` standard normal; returns z."""
        u = torch.special.ndtr(noise).movedim(1, -1)
        digits = torch.minimum((u * self.levels).floor(), self.levels - 1)
        half = (self.levels / 2).floor()
        return ((digits - half) / half).movedim(-1, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """-log K a position in nats, for z on the grid. Shapes: z `b d ...`; returns `b`, a constant."""
        return -z[0, 0].numel() * self.levels.log().sum().expand(len(z))
