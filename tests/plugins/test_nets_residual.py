"""Residual networks: SNGAN's block against a written-out one, attention, R3GAN's block and its initial weights."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_nets.r3gan import R3Block, R3Decoder, R3Discriminator, R3Encoder, R3Transition
from hybridgen_nets.residual import Attention, Block, ResidualDecoder, ResidualDiscriminator, ResidualEncoder


def averaged(x: Tensor) -> Tensor:
    """The mean of each 2x2 window, of what is left of it at an odd side's end; by loops."""
    h, w = math.ceil(x.shape[2] / 2), math.ceil(x.shape[3] / 2)
    rows = [torch.stack([x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(w)], 2) for i in range(h)]
    return torch.stack(rows, 2)


def repeated(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Every pixel as 2x2 of them, cut to size; by numpy."""
    return torch.from_numpy(np.repeat(np.repeat(x.numpy(), 2, 2), 2, 3)[:, :, : size[0], : size[1]].copy())


def first_block(net: nn.Module, stage: int) -> Block:
    found: list[Any] = [m for m in net.modules() if isinstance(m, Block)]
    return found[stage]


def shaken(net: nn.Module) -> nn.Module:
    """Norms' scales and all shifts away from the values that they start at."""
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        if parameter.ndim < 2:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def conv(layer: Any, x: Tensor, padding: int) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=padding)


def normed(layer: Any, x: Tensor) -> Tensor:
    """Group norm by its definition: each group of channels to mean 0 and variance 1, then scale and shift."""
    groups = x.reshape(x.shape[0], layer.num_groups, -1)
    scaled = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
    return scaled.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 8), (7, 3), (1, 6)])
def test_a_block_on_the_way_down_is_the_papers(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = shaken(ResidualEncoder((2, *size), (3,), width=4, depth=1, norm="group"))
    first, second = first_block(net, 0), first_block(net, 1)
    x = torch.randn(3, 2, *size)
    # the first block sees the picture itself: no norm, no activation ahead of its first convolution
    expected = conv(first.conv_out, F.relu(normed(first.norm_mid, conv(first.conv_in, x, 1))), 1) + conv(first.skip, x, 0)
    h = net.body[0](x)  # type: ignore[index]
    torch.testing.assert_close(h, expected)
    inner = conv(second.conv_in, F.relu(normed(second.norm_in, h)), 1)
    branch = averaged(conv(second.conv_out, F.relu(normed(second.norm_mid, inner)), 1))
    torch.testing.assert_close(net.body[1](h), branch + averaged(conv(second.skip, h, 0)))  # type: ignore[index]


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 8), (7, 3), (1, 6)])
def test_a_block_on_the_way_up_is_the_papers(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = shaken(ResidualDecoder((3,), (2, *size), width=4, depth=1, norm="group"))
    block = first_block(net, 1)
    h = torch.randn(3, 8, math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    inner = conv(block.conv_in, repeated(F.relu(normed(block.norm_in, h)), size), 1)
    branch = conv(block.conv_out, F.relu(normed(block.norm_mid, inner)), 1)
    torch.testing.assert_close(net.body[1](h), branch + conv(block.skip, repeated(h, size), 0))  # type: ignore[index]


@torch.no_grad()
def test_what_stands_at_both_ends() -> None:
    """The last norm and activation, then a 3x3 convolution to the picture or a linear layer to the code."""
    torch.manual_seed(0)
    decoder = shaken(ResidualDecoder((3,), (2, 6, 5), width=4))
    z = torch.randn(3, 3)
    h = (z @ decoder.from_z.weight.T + decoder.from_z.bias).reshape(3, 8, 3, 3)  # type: ignore[union-attr,operator]
    for stage in decoder.body:  # type: ignore[union-attr]
        h = stage(h)
    torch.testing.assert_close(decoder(z), conv(decoder.to_raw, F.relu(normed(decoder.norm_out, h)), 1))
    encoder = shaken(ResidualEncoder((2, 6, 5), (3,), width=4))
    x = torch.randn(3, 2, 6, 5)
    h = F.relu(normed(encoder.body[2], encoder.body[1](encoder.body[0](x)))).flatten(1)  # type: ignore[index]
    torch.testing.assert_close(encoder(x), h @ encoder.to_code.weight.T + encoder.to_code.bias)  # type: ignore[union-attr,operator]


def test_one_by_one_convolutions_run_where_pixels_are_few() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def note(layer: nn.Module, name: str) -> None:
        layer.register_forward_hook(lambda m, i, o: seen.update({name: tuple(o.shape[2:])}))

    down, up = ResidualEncoder((1, 9, 6), (3,), width=2, depth=1), ResidualDecoder((3,), (1, 9, 6), width=2, depth=1)
    note(first_block(down, 1).skip, "down")
    note(first_block(up, 1).skip, "up")
    down(torch.randn(1, 1, 9, 6))
    up(torch.randn(1, 3))
    for name, ways in (("r3 down", ((9, 6), (5, 3))), ("r3 up", ((5, 3), (9, 6)))):
        transition = R3Transition(2, 4, ways)  # type: ignore[arg-type]
        note(transition.convolve, name)
        assert transition(torch.randn(1, 2, *ways[0])).shape == (1, 4, *ways[1])
    assert seen == dict.fromkeys(("down", "up", "r3 down", "r3 up"), (5, 3))


@torch.no_grad()
def test_where_channels_and_sides_stay_the_shortcut_is_nothing() -> None:
    torch.manual_seed(0)
    net = ResidualDecoder((3,), (2, 6, 5), width=4, depth=0, norm="none", blocks=2)
    for block in (first_block(net, 0), first_block(net, 1)):
        nn.init.zeros_(block.conv_out.weight)
    h = torch.randn(3, 4, 6, 5)
    assert torch.equal(net.body[0](h), h)  # type: ignore[index]


def test_blocks_and_stages_are_as_many_as_asked_for() -> None:
    for kind, shapes in (
        (ResidualEncoder, ((1, 9, 9), (4,))),
        (ResidualDecoder, ((4,), (1, 9, 9))),
        (ResidualDiscriminator, ((1, 9, 9),)),
    ):
        net = kind(*shapes, width=4, depth=2, blocks=3)  # type: ignore[arg-type]
        blocks = [m for m in net.modules() if isinstance(m, Block)]
        assert len(blocks) == 3 * 3
        ways = [b.conv_out.out_channels for b in blocks]
        assert ways == ([16] * 3 + [8] * 3 + [4] * 3 if kind is ResidualDecoder else [4] * 3 + [8] * 3 + [16] * 3)


@pytest.mark.parametrize("size", [(64, 64), (17, 33), (5, 40), (1, 9)])
@pytest.mark.parametrize(("encoder", "decoder"), [(ResidualEncoder, ResidualDecoder), (R3Encoder, R3Decoder)])
def test_the_decoder_mirrors_the_encoders_sizes(size: tuple[int, int], encoder: Any, decoder: Any) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {"down": [], "up": []}
    nets = {"down": encoder((1, *size), (3,), width=2), "up": decoder((3,), (1, *size), width=2)}
    for way, net in nets.items():
        for stage in net.layers if encoder is R3Encoder else net.body:
            stage.register_forward_hook(lambda m, i, o, w=way: seen[w].append(tuple(o.shape[1:])) if o.ndim == 4 else None)
    nets["down"](torch.randn(1, 1, *size))
    nets["up"](torch.randn(1, 3))
    if encoder is ResidualEncoder:
        seen["down"] = seen["down"][:-2]  # the last norm and activation
    assert seen["down"] == seen["up"][::-1]
    assert seen["up"][-1] == (2, *size)


@torch.no_grad()
def test_the_logit_is_a_linear_function_of_the_activations_summed_over_places() -> None:
    torch.manual_seed(0)
    net = shaken(ResidualDiscriminator((2, 7, 5), width=4, activation="leaky-relu"))
    logits, features = net(torch.randn(3, 2, 7, 5))
    last = torch.where(features[-1] > 0, features[-1], 0.2 * features[-1])
    expected = [sum(float(w * row.sum()) for w, row in zip(net.to_logit.weight[0], sample, strict=True)) for sample in last]  # type: ignore[union-attr,index]
    torch.testing.assert_close(logits, torch.tensor(expected) + net.to_logit.bias, rtol=1e-4, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [ResidualEncoder, ResidualDecoder, ResidualDiscriminator])
def test_xavier_uniform_with_gain_sqrt_two_in_branches_and_one_elsewhere(kind: Any) -> None:
    torch.manual_seed(0)
    shapes = {
        ResidualEncoder: ((3, 16, 16), (40,)),
        ResidualDecoder: ((40,), (3, 16, 16)),
        ResidualDiscriminator: ((3, 16, 16),),
    }
    net = kind(*shapes[kind], width=16, attention=8)
    branches = {m for b in net.modules() if isinstance(b, Block) for m in (b.conv_in, b.conv_out)}
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) > len(branches) > 4
    for layer in layers:
        weight = layer.weight.detach()
        places = weight[0, 0].numel() if weight.ndim == 4 else 1
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * places)) * (math.sqrt(2) if layer in branches else 1)
        assert float(weight.abs().max()) <= bound
        if weight.numel() > 200:
            assert float(weight.abs().max()) > 0.97 * bound
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert layer.bias is None or not layer.bias.any()


# -- attention -----------------------------------------------------------------------------------------------------------


def test_attention_starts_as_the_identity() -> None:
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(Attention(16)(x), x)


@torch.no_grad()
def test_attention_is_the_papers_formula() -> None:
    """y_j = x_j + gamma v(sum_i softmax_i(f(x_i) . g(x_j)) h(x_i)), by loops over places."""
    torch.manual_seed(0)
    layer = Attention(16)
    layer.gamma.fill_(0.7)
    x = torch.randn(2, 16, 2, 3)
    maps = {name: getattr(layer, name).weight.flatten(1) for name in "fghv"}
    assert [tuple(m.shape) for m in maps.values()] == [(2, 16), (2, 16), (2, 16), (16, 2)]
    expected = torch.empty_like(x)
    for b in range(2):
        places = x[b].flatten(1).unbind(1)
        for j, place in enumerate(places):
            scores = torch.tensor([float((maps["f"] @ other) @ (maps["g"] @ place)) for other in places])
            shares = scores.exp() / scores.exp().sum()
            seen = sum(share * (maps["h"] @ other) for share, other in zip(shares, places, strict=True))
            expected[b, :, j // 3, j % 3] = place + 0.7 * (maps["v"] @ seen)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("at", [9, 5])
def test_attention_stands_in_the_stage_of_the_size_that_was_named(at: int) -> None:
    sizes: list[tuple[int, ...]] = []
    for kind, shapes, given in (
        (ResidualEncoder, ((1, 6, 9), (4,)), (1, 6, 9)),
        (ResidualDecoder, ((4,), (1, 6, 9)), (4,)),
        (ResidualDiscriminator, ((1, 6, 9),), (1, 6, 9)),
    ):
        net = kind(*shapes, width=8, attention=at)  # type: ignore[arg-type]
        found = [m for m in net.modules() if isinstance(m, Attention)]
        assert len(found) == 1
        found[0].register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[2:])))
        net(torch.randn(1, *given))
        with pytest.raises(
            ValueError, match=r"attention = 7, but no stage's longer side is that long; write one of (9, 5|5, 9)"
        ):
            kind(*shapes, width=8, attention=7)  # type: ignore[arg-type]
    assert sizes == [{9: (6, 9), 5: (3, 5)}[at]] * 3
    assert not any(isinstance(m, Attention) for m in ResidualEncoder((1, 6, 9), (4,)).modules())


# -- R3GAN ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_r3_block_is_the_identity_until_its_last_layer_moves_and_then_the_papers() -> None:
    torch.manual_seed(0)
    block = R3Block(6, 3, 2.0, branches=5)
    x = torch.randn(3, 6, 5, 4)
    assert torch.equal(block(x), x)
    nn.init.normal_(block.leave.weight)
    nn.init.normal_(block.enter.bias)
    nn.init.normal_(block.middle.bias)
    h = conv(block.enter, x, 0)
    h = torch.where(h > 0, h, 0.2 * h)
    assert block.middle.weight.shape == (12, 3, 3, 3)
    thirds = [
        F.conv2d(part, weight, padding=1) for part, weight in zip(h.split(3, 1), block.middle.weight.split(3), strict=True)
    ]
    h = torch.cat(thirds, 1) + block.middle.bias[:, None, None]
    expected = x + torch.einsum("oi,bihw->bohw", block.leave.weight[:, :, 0, 0], torch.where(h > 0, h, 0.2 * h))
    torch.testing.assert_close(block(x), expected)
    assert block.leave.bias is None


@pytest.mark.parametrize(
    ("kind", "shapes"), [(R3Encoder, ((1, 32, 32), (4,))), (R3Decoder, ((4,), (1, 32, 32))), (R3Discriminator, ((1, 32, 32),))]
)
@pytest.mark.parametrize("blocks", [1, 4])
def test_fixup_scales_the_others_by_the_number_of_branches(kind: Any, shapes: Any, blocks: int) -> None:
    """Std sqrt(2 / (1 + 0.2^2) / fan_in) L^(-1/4), L = (halvings + 1) * blocks."""
    torch.manual_seed(0)
    net = kind(*shapes, width=32, depth=3, blocks=blocks)
    found = [m for m in net.modules() if isinstance(m, R3Block)]
    assert len(found) == 4 * blocks
    for block in found:
        assert not block.leave.weight.any()
        for layer in (block.enter, block.middle):
            fan_in = layer.weight[0].numel()
            expected = math.sqrt(2 / 1.04 / fan_in) * (4 * blocks) ** -0.25
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.06)
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("kind", "shapes"), [(R3Encoder, ((3, 8, 8), (90,))), (R3Decoder, ((90,), (3, 8, 8))), (R3Discriminator, ((3, 8, 8),))]
)
def test_layers_that_no_nonlinearity_follows_keep_the_scale(kind: Any, shapes: Any) -> None:
    """All but the blocks': std 1 / sqrt(fan_in)."""
    torch.manual_seed(0)
    net = kind(*shapes, width=64)
    inside = {layer for m in net.modules() if isinstance(m, R3Block) for layer in m.modules()}
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in inside]
    assert len(layers) >= 3
    for layer in layers:
        weight = layer.weight.detach()
        expected = weight[0].numel() ** -0.5
        assert float(weight.std()) == pytest.approx(expected, rel=5 / (2 * weight.numel()) ** 0.5)
        assert layer.bias is None or not layer.bias.any()


@torch.no_grad()
def test_an_r3_network_starts_linear() -> None:
    torch.manual_seed(0)
    for net, shape in ((R3Encoder((2, 9, 7), (5,), width=4), (2, 9, 7)), (R3Decoder((5,), (2, 9, 7), width=4), (5,))):
        a, b = torch.randn(2, 3, *shape)
        torch.testing.assert_close(net(2 * a + b), 2 * net(a) + net(b), rtol=1e-4, atol=1e-5)
        for block in net.modules():
            if isinstance(block, R3Block):
                nn.init.normal_(block.leave.weight)
        assert not torch.allclose(net(2 * a + b), 2 * net(a) + net(b), rtol=1e-2, atol=1e-2)


def test_what_stands_behind_a_zero_waits_a_step() -> None:
    torch.manual_seed(0)
    net = R3Discriminator((1, 8, 8), width=8)
    net(torch.randn(3, 1, 8, 8))[0].sum().backward()
    waiting = {k.rpartition(".")[0].rpartition(".")[2] for k, p in net.named_parameters() if not p.grad.any()}  # type: ignore[union-attr]
    assert waiting == {"enter", "middle"}


@torch.no_grad()
def test_transitions_resample_bilinearly_and_map_channels() -> None:
    down, up = R3Transition(1, 1, ((1, 6), (1, 3))), R3Transition(1, 1, ((1, 3), (1, 6)))
    for layer in (down, up):
        layer.convolve.weight.fill_(2.0)
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 8.0])
    torch.testing.assert_close(down(ramp.view(1, 1, 1, 6)).flatten(), 2 * torch.tensor([0.5, 2.5, 6.0]))
    # between the middles of pixels, at quarters: 3/4 of the nearer and 1/4 of the further, the edge alone at the ends
    fine = torch.tensor([0.0, 0.25, 0.75, 1.5, 2.5, 3.0])
    torch.testing.assert_close(up(torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 1, 3)).flatten(), 2 * fine)
    for before, after in pairwise([(17, 33), (9, 17), (5, 9)]):
        flat = R3Transition(3, 5, (before, after))(torch.ones(2, 3, *before))
        assert flat.shape == (2, 5, *after)
        torch.testing.assert_close(flat, flat[:, :, :1, :1].expand_as(flat))


@torch.no_grad()
def test_the_decoder_starts_from_a_learned_basis_and_the_critic_ends_in_a_sum_over_places() -> None:
    torch.manual_seed(0)
    net = R3Decoder((3,), (1, 10, 6), width=4, depth=1)
    z = torch.randn(2, 3)
    first = net.basis(z)
    for b in range(2):
        for c in range(8):
            torch.testing.assert_close(first[b, c], net.basis.basis[c] * (net.basis.map.weight[c] @ z[b]))
    assert tuple(net.basis.basis.shape) == (8, 5, 3)
    assert float(net.basis.basis.std()) == pytest.approx(1.0, rel=0.2)
    critic = R3Discriminator((1, 10, 6), width=4, depth=1)
    logits, features = critic(torch.randn(2, 1, 10, 6))
    assert tuple(critic.head.conv.weight.shape) == (8, 1, 5, 3)
    summed = (features[-1] * critic.head.conv.weight[:, 0]).sum((2, 3))
    torch.testing.assert_close(logits, summed @ critic.to_logit.weight[0] + critic.to_logit.bias)


def test_groups_and_expansion() -> None:
    def blocks(**options: Any) -> list[R3Block]:
        return [m for m in R3Encoder((1, 8, 8), (4,), **options).modules() if isinstance(m, R3Block)]

    for block in blocks(width=24, expansion=1.5):
        inner = block.enter.out_channels
        assert inner == 1.5 * block.enter.in_channels == block.leave.in_channels
        assert block.middle.in_channels // block.middle.groups == math.gcd(inner, 16)
    assert blocks(width=32)[0].middle.groups == 4  # 64 channels in groups of 16
    assert blocks(width=32, group=8, expansion=0.5)[0].middle.groups == 2
    assert blocks(width=1, expansion=0.25)[0].enter.out_channels == 1
    with pytest.raises(ValueError, match=r"group = 12 does not divide the 16 channels within a block .*write group = 4"):
        blocks(width=8, group=12)


def test_norms_of_residual_networks_are_group_norm_unless_asked_otherwise_and_a_critic_has_none() -> None:
    def count(net: nn.Module) -> int:
        return sum(isinstance(m, nn.GroupNorm) for m in net.modules())

    assert count(ResidualDecoder((4,), (1, 8, 8), width=4)) == 5  # two a block and the last
    assert count(ResidualEncoder((1, 8, 8), (4,), width=4)) == 4  # none ahead of the picture
    assert count(ResidualDiscriminator((1, 8, 8), width=4)) == 0
