"""Networks: any height, width and channel count; options that do what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybridgen_nets.conv import ConvDecoder, ConvDiscriminator, ConvEncoder
from hybridgen_nets.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder

SHAPES = [(1, 8, 8), (3, 64, 64), (1, 28, 28), (3, 17, 33), (2, 5, 40), (4, 1, 9), (1, 1, 1)]


FAMILIES = [(ConvEncoder, ConvDecoder, ConvDiscriminator), (MLPEncoder, MLPDecoder, MLPDiscriminator)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("encoder", "decoder", "critic"), FAMILIES)
def test_every_size_goes_in_and_comes_out(shape: tuple[int, ...], encoder: Any, decoder: Any, critic: Any) -> None:
    x = torch.randn(3, *shape)
    code = encoder(shape, (6,), width=4)(x)
    assert code.shape == (3, 6)
    raw = decoder((5,), shape, width=4)(torch.randn(3, 5))
    assert raw.shape == x.shape
    logits, features = critic(shape, width=4)(x)
    assert logits.shape == (3,)
    assert all(f.shape[0] == 3 for f in features)
    assert len(features) >= 1


def test_vectors_and_spatial_codes() -> None:
    assert MLPEncoder((7,), (2, 3), width=4)(torch.randn(2, 7)).shape == (2, 2, 3)
    assert MLPDecoder((4, 2, 2), (7,), width=4)(torch.randn(2, 4, 2, 2)).shape == (2, 7)
    assert ConvDecoder((4, 2, 2), (1, 8, 8), width=4)(torch.randn(2, 4, 2, 2)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("norm", ["none", "group", "layer", "batch"])
@pytest.mark.parametrize("activation", ["silu", "relu", "leaky-relu", "gelu"])
def test_options_build_what_they_name(norm: Any, activation: Any) -> None:
    kinds = {"none": (), "group": nn.GroupNorm, "layer": nn.GroupNorm, "batch": (nn.BatchNorm2d, nn.BatchNorm1d)}
    acts = {"silu": nn.SiLU, "relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "gelu": nn.GELU}
    for made in (
        ConvEncoder((1, 8, 8), (4,), width=8, norm=norm, activation=activation, dropout=0.1),
        ConvDecoder((4,), (1, 8, 8), width=8, norm=norm, activation=activation, dropout=0.1),
        MLPEncoder((8,), (4,), width=8, norm=norm, activation=activation, dropout=0.1),
    ):
        modules = list(made.modules())
        found = [m for m in modules if isinstance(m, (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d))]
        assert bool(found) == (norm != "none")
        assert norm == "none" or all(isinstance(m, kinds[norm]) for m in found)
        assert any(isinstance(m, acts[activation]) for m in modules)
        assert any(isinstance(m, (nn.Dropout, nn.Dropout2d)) for m in modules)


def test_layer_norm_is_one_group() -> None:
    norms = [m for m in ConvEncoder((1, 8, 8), (4,), width=16, norm="layer").modules() if isinstance(m, nn.GroupNorm)]
    assert norms
    assert all(m.num_groups == 1 for m in norms)


def test_width_and_depth() -> None:
    narrow, wide = (sum(p.numel() for p in ConvEncoder((1, 16, 16), (4,), width=w).parameters()) for w in (8, 16))
    assert wide > 3 * narrow
    convs = [m for m in ConvEncoder((1, 16, 16), (4,), width=8, depth=3).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [8, 16, 32, 64]
    assert sum(isinstance(m, nn.Linear) for m in MLPEncoder((4,), (2,), width=8, depth=3).modules()) == 4


@pytest.mark.parametrize("kind", [ConvDiscriminator, MLPDiscriminator])
def test_spectral_norm_bounds_every_weight(kind: Any) -> None:
    torch.manual_seed(0)
    critic = kind((1, 8, 8), width=8, spectral_norm=True)
    for _ in range(50):  # power iterations
        critic(torch.randn(2, 1, 8, 8))
    for module in critic.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            assert float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)) == pytest.approx(1.0, rel=0.05)


def test_he_initialisation_keeps_the_scale_through_depth() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 1, 32, 32)
    deep = MLPDiscriminator((1, 32, 32), depth=6, activation="relu")
    for net in (ConvDiscriminator((1, 32, 32), width=16, activation="relu"), deep):
        scales = [float(f.detach().square().mean().sqrt()) for f in net(x)[1]]
        assert max(scales) / min(scales) < 3


def test_conv_refuses_what_is_no_picture_and_too_many_halvings() -> None:
    with pytest.raises(ValueError, match='use "mlp"'):
        ConvEncoder((2,), (4,))
    with pytest.raises(ValueError, match="write at most 3"):
        ConvEncoder((1, 8, 8), (4,), depth=5)


def test_gradients_reach_every_parameter() -> None:
    for net, given in (
        (ConvEncoder((1, 9, 7), (4,), width=8), torch.randn(2, 1, 9, 7)),
        (ConvDecoder((4,), (1, 9, 7), width=8), torch.randn(2, 4)),
        (ConvDiscriminator((1, 9, 7), width=8), torch.randn(2, 1, 9, 7)),
    ):
        out = net(given)
        (out[0] if isinstance(out, tuple) else out).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
