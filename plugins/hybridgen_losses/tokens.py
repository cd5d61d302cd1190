"""How likely a sequence of tokens is under the decoder's logits, in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen_losses.reconstruction import LikelihoodAt


class CrossEntropy(nn.Module):
    """-log p(tokens|z), summed over the positions of each sequence and averaged over the batch, in nats per sequence.

    loss = sum over kept positions of -sum_v t_v log softmax(recon_raw)_v, where t is 1 at the token; with
    `label_smoothing` s it is 1 - s + s / v there and s / v elsewhere. Padding (`mask` False) costs nothing.

    With the KL it is the negative ELBO; the metric "elbo" takes the log-likelihood without smoothing.

    Shapes: recon_raw `b l v`, tokens `b l`, mask `b l`; returns a scalar in nats per sequence.
    Raises: ValueError for data that are not tokens.

    When: tokens, in the place of "reconstruction". Smoothing keeps a strong decoder from certainty; a VAE rarely wants it.
    Healthy: starts near l * log(v) (uniform guesses) and falls. Divided by l and exponentiated it is the perplexity. A value as
        good as a language model's without z, at a KL near 0, is posterior collapse: weaken the decoder or warm the KL up.
    Source: Bowman et al. 2015 (arXiv:1511.06349), section 3; smoothing: Szegedy et al. 2015 (arXiv:1512.00567), section 7.
    """

    quantities = ("log_likelihood", "log_likelihood_at")

    def __init__(
        self,
        output_activation: str,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1, description="share of the target spread over all tokens")] = 0.0,
    ) -> None:
        super().__init__()
        if output_activation != "softmax":
            raise ValueError(
                f"cross-entropy wants data of the kind tokens (output activation softmax), these have "
                f"'{output_activation}'; use = \"reconstruction\" for pictures and vectors"
            )
        self.label_smoothing = label_smoothing

    def log_likelihood(self, recon_raw: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(tokens|z) of each sequence in nats. Shapes: `b l v`, `b l` -> `b`."""
        return -_cross_entropy(recon_raw, tokens, mask, 0.0)

    def log_likelihood_at(self, decode: Callable[..., Tensor], tokens: Tensor, mask: Tensor | None = None) -> LikelihoodAt:
        """The same at any z, for whoever draws z anew."""
        return LikelihoodAt(lambda z: self.log_likelihood(decode(z=z), tokens, mask), "tokens")

    def forward(self, recon_raw: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return _cross_entropy(recon_raw, tokens, mask, self.label_smoothing).mean()


def _cross_entropy(recon_raw: Tensor, tokens: Tensor, mask: Tensor | None, smoothing: float) -> Tensor:
    logits = recon_raw.float().transpose(1, 2)  # b v l
    values = F.cross_entropy(logits, tokens, reduction="none", label_smoothing=smoothing)  # b l
    if mask is not None:
        values = torch.where(mask, values, 0.0)
    return values.sum(1)
