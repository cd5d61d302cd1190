"""Class-conditional encoders and decoders: they ask for `label`, and are the unconditional networks with the class beside.

By concatenation, a class is embedded in a vector: next to z or to a flattened sample, as constant channels next to a
picture or a spatial z. By norm, each class has a scale and a shift of its own after every normalisation.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.conv import ConvDecoder, ConvEncoder, Init
from hybridgen_nets.layers import Activation, Depth, Dropout, Embedding, Layers, Norm, Units, Width
from hybridgen_nets.mlp import MLPDecoder, MLPEncoder
from hybridgen_nets.residual import AttentionAt, Blocks, ResidualDecoder, ResidualEncoder

EMBEDDING = 16
"""Values that a class is embedded in by default."""


def beside(x: Tensor, embedded: Tensor) -> Tensor:
    """x with a vector a sample beside it: as constant channels of a picture, at the end of anything else, flattened.

    Shapes: `b c h w`, `b e` -> `b (c + e) h w`; else `b ...`, `b e` -> `b (d + e)`.
    """
    if x.ndim == 4:
        return torch.cat([x, embedded[:, :, None, None].expand(-1, -1, *x.shape[2:]).to(x.dtype)], 1)
    return torch.cat([x.flatten(1), embedded.to(x.dtype)], 1)


def widened(shape: tuple[int, ...], embedding: int) -> tuple[int, ...]:
    """The shape of one sample after `beside`."""
    return (shape[0] + embedding, *shape[1:]) if len(shape) == 3 else (math.prod(shape) + embedding,)


class ConditionalNorm(nn.Module):
    """A normalisation whose scale and shift belong to the class: y = scale[label] * normalise(x) + shift[label].

    It takes the place of `plain`, whose own scale and shift go. Scales start at 1 and shifts at 0.

    Shapes: x `b c h w`, label `b`; returns `b c h w`.
    Source: Dumoulin et al. 2016 (arXiv:1610.07629), section 2.2; de Vries et al. 2017 (arXiv:1707.00683), section 4.
    """

    def __init__(self, plain: nn.GroupNorm | nn.BatchNorm2d, classes: int) -> None:
        super().__init__()
        if isinstance(plain, nn.GroupNorm):
            channels = plain.num_channels
            self.norm: nn.Module = nn.GroupNorm(plain.num_groups, channels, affine=False)
        else:
            channels = plain.num_features
            self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = (table(label)[:, :, None, None] for table in (self.scale, self.shift))
        return scale * self.norm(x) + shift


def condition_norms(module: nn.Module, classes: int) -> None:
    """Every normalisation of a network becomes a conditional one."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.GroupNorm, nn.BatchNorm2d)):
                setattr(parent, name, ConditionalNorm(child, classes))


class ConditionalMLPEncoder(nn.Module):
    """A labelled sample, flattened, to the code: "mlp" with the class's embedding beside the sample.

    Shapes: x `b ...`, label `b`; returns `b *code_shape`.
    When: labelled vectors and small pictures, so that the code need not tell the class; with "mlp-conditional" as decoder.
    Healthy: a KL below that of "mlp" at the same reconstruction: what the label says costs no nats.
    Source: Sohn et al. 2015 ("Learning structured output representation", NeurIPS), section 4; Mirza & Osindero 2014
        (arXiv:1411.1784).
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        embedding: Embedding = EMBEDDING,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, embedding)
        inputs = (math.prod(sample_shape) + embedding,)
        self.body = MLPEncoder(inputs, code_shape, width=width, depth=depth, activation=activation, norm=norm, dropout=dropout)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.body(beside(x.flatten(1), self.embed(label)))


class ConditionalMLPDecoder(nn.Module):
    """A latent and a class to the raw values of a sample: "mlp" with the class's embedding beside z.

    Shapes: z `b *z_shape`, label `b`; returns `b *sample_shape`, before the output activation.
    When: labelled vectors and small pictures; lets `sample` take a label.
    Healthy: samples fit the label they were asked for, and differ within one.
    Source: Mirza & Osindero 2014 (arXiv:1411.1784), section 3.2.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        embedding: Embedding = EMBEDDING,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, embedding)
        inputs = (math.prod(z_shape) + embedding,)
        self.body = MLPDecoder(
            inputs, sample_shape, width=width, depth=depth, activation=activation, norm=norm, dropout=dropout
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.body(beside(z.flatten(1), self.embed(label)))


class ConditionalConvEncoder(nn.Module):
    """A labelled picture to the code: "conv" with the class's embedding as constant channels beside the picture.

    Shapes: x `b c h w`, label `b`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, too many halvings, or a spatial code whose sides don't fit.
    When: labelled pictures, so that the code need not tell the class; with "conv-conditional" as decoder.
    Healthy: a KL below that of "conv" at the same reconstruction: what the label says costs no nats.
    Source: Mirza & Osindero 2014 (arXiv:1411.1784); the body as "conv".
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "silu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        init: Init = "he",
        embedding: Embedding = EMBEDDING,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, embedding)
        self.body = ConvEncoder(
            widened(sample_shape, embedding),
            code_shape,
            width=width,
            depth=depth,
            activation=activation,
            norm=norm,
            dropout=dropout,
            init=init,
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.body(beside(x, self.embed(label)))


class ConditionalConvDecoder(nn.Module):
    """A latent and a class to the raw values of a picture: "conv" with the class's embedding beside z.

    Shapes: z `b *z_shape`, label `b`; returns `b c h w`, before the output activation.
    Raises: ValueError for data that are no pictures, too many halvings, or a spatial latent whose sides don't fit.
    When: labelled pictures; lets `sample` take a label. "residual-conditional" sets the class deeper, by its norms.
    Healthy: samples fit the label they were asked for, and differ within one.
    Source: Mirza & Osindero 2014 (arXiv:1411.1784), section 3.2; the body as "conv".
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "silu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        init: Init = "he",
        embedding: Embedding = EMBEDDING,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, embedding)
        self.body = ConvDecoder(
            widened(z_shape, embedding),
            sample_shape,
            width=width,
            depth=depth,
            activation=activation,
            norm=norm,
            dropout=dropout,
            init=init,
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.body(beside(z, self.embed(label)))


class ConditionalResidualEncoder(nn.Module):
    """A labelled picture to the code: "residual" with the class's embedding as constant channels beside the picture.

    Shapes: x `b c h w`, label `b`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, too many halvings, a spatial code whose sides don't fit, or attention
        at a size that no stage has.
    When: labelled pictures, so that the code need not tell the class; with "residual-conditional" as decoder.
    Healthy: a KL below that of "residual" at the same reconstruction: what the label says costs no nats.
    Source: Mirza & Osindero 2014 (arXiv:1411.1784); the body as "residual".
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
        embedding: Embedding = EMBEDDING,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, embedding)
        self.body = ResidualEncoder(
            widened(sample_shape, embedding),
            code_shape,
            width=width,
            depth=depth,
            blocks=blocks,
            activation=activation,
            norm=norm,
            dropout=dropout,
            attention=attention,
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.body(beside(x, self.embed(label)))


class ConditionalResidualDecoder(nn.Module):
    """A latent and a class to the raw values of a picture: SNGAN's conditional generator, for any size.

    condition = "norm": every normalisation is followed by y = scale[label] * normalise(h) + shift[label], as in conditional
    batch norm (that is norm = "batch"). condition = "concat": the class's embedding stands beside z instead.

    Shapes: z `b *z_shape`, label `b`; returns `b c h w`, before the output activation.
    Raises: ValueError as "residual" does; for condition = "norm" with norm = "none" or an `embedding`.
    When: labelled pictures; with "residual-projection" as discriminator it is the paper's pair.
    Healthy: samples fit the label they were asked for, and differ within one; if the label is ignored, judge by a projection.
    Source: Dumoulin et al. 2016 (arXiv:1610.07629), section 2.2; de Vries et al. 2017 (arXiv:1707.00683), section 4; Miyato &
        Koyama 2018 (arXiv:1802.05637), section 5.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
        condition: Annotated[
            Literal["norm", "concat"], Field(description="where the class enters: in every norm, or beside z")
        ] = "norm",
        embedding: Annotated[
            int | None, Field(ge=1, description="values that a class is embedded in; for concat only, 16 by default")
        ] = None,
    ) -> None:
        super().__init__()
        if condition == "norm" and norm == "none":
            raise ValueError(
                'residual decoder: condition = "norm" sets the class in normalisations, but norm = "none"; write '
                'norm = "group" (or "batch"), or condition = "concat"'
            )
        if condition == "norm" and embedding is not None:
            raise ValueError(
                f'residual decoder: embedding = {embedding} is for condition = "concat"; with "norm" each class has a '
                "scale and a shift: leave `embedding` out"
            )
        size = 0 if condition == "norm" else embedding or EMBEDDING
        self.embed = nn.Embedding(num_classes, size) if size else None
        self.body = ResidualDecoder(
            widened(z_shape, size),
            sample_shape,
            width=width,
            depth=depth,
            blocks=blocks,
            activation=activation,
            norm=norm,
            dropout=dropout,
            attention=attention,
        )
        if self.embed is None:
            condition_norms(self.body, num_classes)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        if self.embed is None:
            return self.body.decode(z, label)
        return self.body(beside(z, self.embed(label)))
