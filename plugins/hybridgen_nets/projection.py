"""Class-conditional discriminators by projection: the label enters as an inner product with the last activations.

logit = psi(phi(x)) + <embed(label), phi(x)>

Source: Miyato & Koyama 2018 (arXiv:1802.05637), equation 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from hybridgen_nets.conv import ConvDiscriminator, Init
from hybridgen_nets.layers import (
    Activation,
    Depth,
    Dropout,
    Layers,
    Norm,
    SpectralNorm,
    Units,
    Width,
    initialise_xavier,
    normalise_spectrally,
)
from hybridgen_nets.minibatch import Minibatch
from hybridgen_nets.mlp import MLPDiscriminator
from hybridgen_nets.residual import AttentionAt, Blocks, ResidualDiscriminator

Body = MLPDiscriminator | ConvDiscriminator | ResidualDiscriminator


def _embedding(classes: int, body: Body) -> nn.Embedding:
    """A vector a class, as long as phi(x)."""
    embed = nn.Embedding(classes, body.to_logit.in_features)
    initialise_xavier(embed)
    return embed


def _project(body: Body, embed: nn.Embedding, x: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor]]:
    phi, features = body.represent(x)
    return body.to_logit(phi).squeeze(1) + (embed(label) * phi).sum(1), features


class ProjectionMLP(nn.Module):
    """A labelled sample, flattened, to one logit: "mlp" that knows the class.

    logit = psi(phi(x)) + <embed(label), phi(x)>, phi the last hidden layer, psi linear

    Shapes: x `b ...`, label `b`; returns the logits `b` and the hidden layers' activations, each `b width`.
    When: labelled vectors and small pictures, with a decoder that asks for `label`; else "mlp".
    Healthy: as "mlp"; samples of each class fit their label. If they don't, the class term is weak: more steps or `width`.
    Source: Miyato & Koyama 2018 (arXiv:1802.05637), equation 4.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        self.body = MLPDiscriminator(
            judged_shape, width=width, depth=depth, activation=activation, norm=norm, dropout=dropout, minibatch=minibatch
        )
        self.embed = _embedding(num_classes, self.body)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _project(self.body, self.embed, x, label)


class ProjectionConv(nn.Module):
    """A labelled picture to one logit by strided convolutions: "conv" that knows the class.

    logit = psi(phi(x)) + <embed(label), phi(x)>, phi the last stage's activations as one vector, psi linear

    Shapes: x `b c h w`, label `b`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, or too many halvings.
    When: labelled pictures, with a decoder that asks for `label`; else "conv".
    Healthy: as "conv"; samples of each class fit their label. If they don't, the class term is weak: more steps or `width`.
    Source: Miyato & Koyama 2018 (arXiv:1802.05637), equation 4.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
        minibatch: Minibatch = "none",
        init: Init = "he",
    ) -> None:
        super().__init__()
        self.body = ConvDiscriminator(
            judged_shape,
            width=width,
            depth=depth,
            activation=activation,
            norm=norm,
            dropout=dropout,
            minibatch=minibatch,
            init=init,
        )
        self.embed = _embedding(num_classes, self.body)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _project(self.body, self.embed, x, label)


class ProjectionResidual(nn.Module):
    """A labelled picture to one logit by residual blocks: SNGAN's projection discriminator, for any size.

    logit = psi(phi(x)) + <embed(label), phi(x)>, phi the last activations summed over places, psi linear

    Shapes: x `b c h w`, label `b`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, too many halvings, or attention at a size that no stage has.
    When: labelled pictures, with "residual-conditional" as decoder, spectral_norm = true and hinge loss, as in the paper.
    Healthy: as "residual"; samples of each class fit their label. If all classes look alike, the class term is weak.
    Source: Miyato & Koyama 2018 (arXiv:1802.05637), equation 4 and appendix (networks).
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
        spectral_norm: SpectralNorm = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        self.body = ResidualDiscriminator(
            judged_shape,
            width=width,
            depth=depth,
            blocks=blocks,
            activation=activation,
            norm=norm,
            dropout=dropout,
            attention=attention,
            minibatch=minibatch,
        )
        self.embed = _embedding(num_classes, self.body)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _project(self.body, self.embed, x, label)
