"""Class-conditional encoders and decoders: where the label enters, and that it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybridgen_nets.conditional import (
    ConditionalConvDecoder,
    ConditionalConvEncoder,
    ConditionalMLPDecoder,
    ConditionalMLPEncoder,
    ConditionalNorm,
    ConditionalResidualDecoder,
    ConditionalResidualEncoder,
    beside,
)
from hybridgen_nets.residual import ResidualDecoder

ENCODERS = [ConditionalMLPEncoder, ConditionalConvEncoder, ConditionalResidualEncoder]
DECODERS = [ConditionalMLPDecoder, ConditionalConvDecoder]


def test_a_vector_stands_beside_a_vector_and_as_constant_channels_beside_a_picture() -> None:
    embedded = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert beside(torch.tensor([[5.0], [6.0]]), embedded).tolist() == [[5.0, 1.0, 2.0], [6.0, 3.0, 4.0]]
    assert beside(torch.tensor([[[5.0]], [[6.0]]]), embedded).tolist() == [[5.0, 1.0, 2.0], [6.0, 3.0, 4.0]]
    x = torch.zeros(2, 1, 1, 3)
    assert beside(x, embedded)[1].tolist() == [[[0.0] * 3], [[3.0] * 3], [[4.0] * 3]]


@torch.no_grad()
@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS, ConditionalResidualDecoder])
@pytest.mark.parametrize("in_the_plane", [False, True])
def test_the_label_matters_through_its_embedding_alone(kind: Any, in_the_plane: bool) -> None:
    torch.manual_seed(0)
    if kind in ENCODERS:
        shapes: tuple[Any, Any] = ((2, 5, 6), (4, 3, 3) if in_the_plane else (4,))
    else:
        shapes = ((4, 3, 3) if in_the_plane else (4,), (2, 5, 6))
    more = {"condition": "concat"} if kind is ConditionalResidualDecoder else {}
    net = kind(*shapes, 3, width=4, embedding=7, **more)
    assert net.embed.weight.shape == (3, 7)
    x = torch.randn(1, *shapes[0]).expand(3, *shapes[0])
    by_class = net(x, torch.arange(3))
    assert (by_class[0] - by_class[1]).abs().max() > 1e-3
    torch.testing.assert_close(net(x, torch.tensor([1, 1, 0])), by_class[[1, 1, 0]])
    # the body sees x first, then the class
    whole = torch.cat([x, net.embed.weight[:, :, None, None].expand(3, 7, *x.shape[2:])], 1) if x.ndim == 4 else None
    if kind in (ConditionalMLPEncoder, ConditionalMLPDecoder) or whole is None:
        whole = torch.cat([x.flatten(1), net.embed.weight], 1)
    torch.testing.assert_close(net.body(whole), by_class)
    nn.init.zeros_(net.embed.weight)
    nothing = net(x, torch.arange(3))
    torch.testing.assert_close(nothing[0], nothing[1])


# -- by norm -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_conditional_group_norm_is_arithmetic_by_hand() -> None:
    """Two channels in one group, values 1, 3 and 5, 7: mean 4, variance 5."""
    layer = ConditionalNorm(nn.GroupNorm(1, 2), 3)
    layer.scale.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 3.0], [0.5, -1.0]]))
    layer.shift.weight.copy_(torch.tensor([[0.0, 0.0], [0.1, 0.2], [-4.0, 6.0]]))
    x = torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]]).expand(3, 2, 1, 2)
    plain = torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / (5 + 1e-5) ** 0.5
    got = layer(x, torch.tensor([2, 0, 1])).squeeze(2)
    torch.testing.assert_close(got[0], torch.stack([0.5 * plain[0] - 4, -plain[1] + 6]))
    torch.testing.assert_close(got[1], plain)
    torch.testing.assert_close(got[2], torch.stack([2 * plain[0] + 0.1, 3 * plain[1] + 0.2]))


@torch.no_grad()
def test_conditional_batch_norm_shares_statistics_among_classes() -> None:
    """One channel, the values 1 and 5 of two samples: mean 3, variance 4, whatever their classes."""
    layer = ConditionalNorm(nn.BatchNorm2d(1), 2)
    layer.scale.weight.copy_(torch.tensor([[2.0], [10.0]]))
    layer.shift.weight.copy_(torch.tensor([[0.5], [-1.0]]))
    got = layer(torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1), torch.tensor([1, 0])).flatten()
    unit = 2 / (4 + 1e-5) ** 0.5
    torch.testing.assert_close(got, torch.tensor([-10 * unit - 1, 2 * unit + 0.5]))
    torch.testing.assert_close(layer.norm.running_mean, torch.tensor([0.3]))


@torch.no_grad()
@pytest.mark.parametrize("norm", ["group", "layer", "batch"])
def test_it_starts_as_the_unconditional_decoder_and_every_norm_is_conditional(norm: Any) -> None:
    options: dict[str, Any] = {"width": 8, "norm": norm, "blocks": 2, "attention": 3}
    torch.manual_seed(0)
    plain = ResidualDecoder((4,), (2, 5, 6), **options)
    torch.manual_seed(0)
    net = ConditionalResidualDecoder((4,), (2, 5, 6), 3, **options)
    z = torch.randn(3, 4)
    torch.testing.assert_close(net(z, torch.arange(3)), plain(z))
    affine = [m for m in net.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d)) and m.affine]
    assert affine == []
    conditional = [m for m in net.modules() if isinstance(m, ConditionalNorm)]
    assert len(conditional) == 2 * 4 + 1  # two a block, two blocks in each of two stages, and the last
    groups = [m.num_groups for m in plain.modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [m.norm.num_groups for m in conditional if isinstance(m.norm, nn.GroupNorm)]


def test_a_class_trains_its_own_scales_and_shifts_in_every_norm() -> None:
    torch.manual_seed(0)
    net = ConditionalResidualDecoder((4,), (2, 5, 6), 3, width=8)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, ConditionalNorm):
                m.shift.weight.normal_()
    z = torch.randn(1, 4).expand(2, 4)
    by_class = net(z, torch.tensor([0, 2]))
    assert (by_class[0] - by_class[1]).abs().max() > 1e-2
    by_class.square().sum().backward()
    for m in net.modules():
        if isinstance(m, ConditionalNorm):
            for table in (m.scale.weight.grad, m.shift.weight.grad):
                assert table is not None
                assert table[0].any()
                assert table[2].any()
                assert not table[1].any()


def test_what_has_no_meaning_together_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r'condition = "norm" sets the class in normalisations, but norm = "none"; write norm = "group"'
    ):
        ConditionalResidualDecoder((4,), (1, 8, 8), 3, norm="none")
    with pytest.raises(ValueError, match=r'embedding = 8 is for condition = "concat".*leave `embedding` out'):
        ConditionalResidualDecoder((4,), (1, 8, 8), 3, embedding=8)
    bare = ConditionalResidualDecoder((4,), (1, 8, 8), 3, condition="concat", norm="none", width=4)
    assert bare(torch.randn(2, 4), torch.tensor([0, 2])).shape == (2, 1, 8, 8)
    assert bare.embed is not None
    assert bare.embed.embedding_dim == 16
