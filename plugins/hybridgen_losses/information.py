"""How much of a code can be read back from what it made."""

from __future__ import annotations

from torch import Tensor, nn


class MutualInformation(nn.Module):
    """InfoGAN's term: generator and Q (the encoder) together make the latent's codes readable from the sample.

    loss = -L = -(H(c) + E[log Q(c | G(z))]), in nats; L is a lower bound of the information I(c; G(z))

    H(c) is a constant without gradient; with it 0 means that Q knows nothing, and -loss is information.

    Shapes: code_log_prob, code_entropy `b`; returns a scalar, the batch's mean.
    When: with the latent "info" in a GAN. The paper's weight is 1 for categories, less for continuous codes whose term
        would outweigh the adversarial one.
    Healthy: from about 0 down to -log k for one category of k, less another nat or so for each continuous code. It stays near
        0: the generator ignores its codes; raise `weight`. Above 0: Q is surer than it should be, as at the start.
    Source: Chen et al. 2016 (arXiv:1606.03657), equations 4 to 6.
    """

    def forward(self, code_log_prob: Tensor, code_entropy: Tensor) -> Tensor:
        return -(code_entropy + code_log_prob.float()).mean()
