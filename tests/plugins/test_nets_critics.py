"""Discriminators: patches and what they see, projection of the label, layers that compare the samples of a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hybridgen_nets.conv import ConvDiscriminator
from hybridgen_nets.joint import JointConv, JointMLP
from hybridgen_nets.minibatch import MinibatchDiscrimination, MinibatchStd
from hybridgen_nets.mlp import MLPDiscriminator
from hybridgen_nets.patch import PatchDiscriminator
from hybridgen_nets.projection import ProjectionConv, ProjectionMLP, ProjectionResidual
from hybridgen_nets.r3gan import R3Discriminator
from hybridgen_nets.residual import ResidualDiscriminator

# -- patches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "layers", "patches"),
    [
        ((64, 64), None, (6, 6)),
        ((28, 28), None, (1, 1)),
        ((8, 8), None, (2, 2)),
        ((17, 33), None, (2, 6)),
        ((5, 40), None, (3, 38)),
        ((3, 3), None, (1, 1)),
        ((64, 64), 1, (30, 30)),
        ((64, 48), 4, (2, 1)),
        ((64, 64), 0, (62, 62)),
    ],
)
def test_patches_are_as_many_as_the_formula_says(size: tuple[int, int], layers: int | None, patches: tuple[int, int]) -> None:
    net = PatchDiscriminator((2, *size), width=4, layers=layers)
    logits, features = net(torch.randn(3, 2, *size))
    assert logits.shape == (3, *patches)
    count = sum(m.stride == (2, 2) for m in net.modules() if isinstance(m, nn.Conv2d))
    assert len(features) == count + 1
    assert patches == (size[0] // 2**count - 2, size[1] // 2**count - 2)
    assert [f.shape[1] for f in features] == [4 * min(2**i, 8) for i in range(count + 1)]


@pytest.mark.parametrize(("layers", "side"), [(0, 7), (1, 16), (2, 34), (3, 70)])
def test_a_patch_sees_so_many_pixels_and_no_others(layers: int, side: int) -> None:
    """The middle logit's gradient is not zero on a square of `side` pixels, and zero outside of it."""
    torch.manual_seed(0)
    net = PatchDiscriminator((1, 96, 96), width=4, layers=layers, norm="none")
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    logits = net(x)[0]
    middle = logits.shape[1] // 2
    logits[0, middle, middle].backward()
    assert x.grad is not None
    seen = x.grad[0, 0] != 0
    rows, columns = (seen.any(1 - axis).nonzero().flatten() for axis in (0, 1))
    assert seen.sum() > 0.9 * side**2
    for line in (rows, columns):
        assert int(line[-1] - line[0]) + 1 == side
        # 4x4 windows that begin a pixel early: the first pixel of patch p is 2^layers p - (what the padding adds up to)
        padding = sum(2**i for i in range(layers)) + 2 * 2**layers
        assert int(line[0]) == 2**layers * middle - padding


def test_a_pixel_changes_the_patches_that_see_it_alone() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator((1, 64, 64), width=4, layers=1, norm="none")
    x = torch.randn(1, 1, 64, 64)
    before = net(x)[0]
    x[0, 0, 20, 33] += 1.0
    changed = net(x)[0][0] != before[0]
    reach = {axis: [p for p in range(30) if 2 * p - 5 <= pixel < 2 * p - 5 + 16] for axis, pixel in enumerate((20, 33))}
    expected = torch.zeros(30, 30, dtype=torch.bool)
    expected[reach[0][0] : reach[0][-1] + 1, reach[1][0] : reach[1][-1] + 1] = True
    assert torch.equal(changed, expected)


def test_patches_are_initialised_as_dcgans() -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator((3, 64, 64), width=32, spectral_norm=False)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert (len(convs), len(norms)) == (5, 3)  # none after the first
    for layer in convs:
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert layer.bias is not None
        assert not layer.bias.any()
    weights = torch.cat([m.weight.detach() for m in norms])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.2)
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.01)


def test_pictures_too_small_for_so_many_layers_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"layers = 3 wants sides of at least 24, these pictures are 23x40; write layers = 2 or less"
    ):
        PatchDiscriminator((1, 23, 40), layers=3)
    PatchDiscriminator((1, 24, 40), layers=3)
    with pytest.raises(ValueError, match=r'pictures of 1x9 hold no patch.*write use = "conv"'):
        PatchDiscriminator((4, 1, 9))
    with pytest.raises(ValueError, match='use "mlp"'):
        PatchDiscriminator((5,))


# -- pairs ---------------------------------------------------------------------------------------------------------------

JOINT = [JointMLP, JointConv]


@pytest.mark.parametrize("z_shape", [(5,), (3, 2, 4)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 33), (2, 5, 40), (4, 1, 9), (1, 1, 1)])
@pytest.mark.parametrize("kind", JOINT)
def test_a_pair_of_any_shapes_gets_one_logit(kind: Any, shape: tuple[int, ...], z_shape: tuple[int, ...]) -> None:
    logits, features = kind(shape, z_shape, width=4)(torch.randn(3, *shape), torch.randn(3, *z_shape))
    assert logits.shape == (3,)
    assert len(features) >= 2
    assert all(len(f) == 3 for f in features)
    assert features[-1].shape == (3, 4 if kind is JointMLP else 256)


def test_vectors_are_judged_by_the_perceptron_alone() -> None:
    assert JointMLP((2,), (5,), width=4)(torch.randn(3, 2), torch.randn(3, 5))[0].shape == (3,)
    with pytest.raises(ValueError, match='use "mlp"'):
        JointConv((2,), (5,))


@torch.no_grad()
def test_the_joint_perceptron_reads_both_laid_end_to_end() -> None:
    torch.manual_seed(0)
    net = JointMLP((1, 2, 3), (4,), width=(7, 5), activation="relu")
    x, z = torch.randn(3, 1, 2, 3), torch.randn(3, 4)
    (first, second), last = [layer[0] for layer in net.body.layers], net.body.to_logit
    hidden = (x.flatten(1) @ first.weight[:, :6].T + z @ first.weight[:, 6:].T + first.bias).relu()
    hidden = (hidden @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(net(x, z)[0], (hidden @ last.weight.T + last.bias).squeeze(1))


@torch.no_grad()
def test_the_joint_convolutions_read_the_picture_and_two_layers_both() -> None:
    torch.manual_seed(0)
    net, plain = (
        JointConv((2, 7, 5), (4,), width=8, units=6, activation="relu"),
        ConvDiscriminator((2, 7, 5), width=8, activation="relu"),
    )
    plain.layers.load_state_dict(net.picture.layers.state_dict())
    x, z = torch.randn(3, 2, 7, 5), torch.randn(3, 4)
    logits, features = net(x, z)
    stages = plain(x)[1]
    for got, expected in zip(features[:-1], stages, strict=True):
        torch.testing.assert_close(got, expected)
    phi = stages[-1].flatten(1)
    first, last = net.pair.layers[0][0], net.pair.to_logit
    hidden = (phi @ first.weight[:, : phi.shape[1]].T + z @ first.weight[:, phi.shape[1] :].T + first.bias).relu()
    torch.testing.assert_close(features[-1], hidden)
    torch.testing.assert_close(logits, (hidden @ last.weight.T + last.bias).squeeze(1))
    assert (first.weight.shape, last.weight.shape) == ((6, phi.shape[1] + 4), (1, 6))


@pytest.mark.parametrize("kind", JOINT)
def test_the_logit_is_of_the_pair_and_its_gradient_reaches_both(kind: Any) -> None:
    """Two terms, one of x and one of z, would tell neither from the other's company: their mixed difference is 0."""
    torch.manual_seed(0)
    net = kind((1, 8, 8), (5,), width=8)
    x, z = torch.randn(2, 6, 1, 8, 8).unbind(), torch.randn(2, 6, 5).unbind()
    with torch.no_grad():
        corner = {(i, j): net(x[i], z[j])[0] for i in (0, 1) for j in (0, 1)}
    assert (corner[0, 0] - corner[1, 0]).abs().min() > 1e-4
    assert (corner[0, 0] - corner[0, 1]).abs().min() > 1e-4
    mixed = corner[0, 0] - corner[0, 1] - corner[1, 0] + corner[1, 1]
    assert mixed.abs().min() > 1e-4
    pair = [x[0].clone().requires_grad_(), z[0].clone().requires_grad_()]
    for slope in torch.autograd.grad(net(*pair)[0].sum(), pair):
        assert slope.flatten(1).norm(dim=1).min() > 0


def test_spectral_norm_is_on_every_layer_of_a_joint_critic() -> None:
    for kind in JOINT:
        net = kind((1, 8, 8), (5,), width=4, spectral_norm=True)
        layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        assert len(layers) >= 3
        assert all(nn.utils.parametrize.is_parametrized(m, "weight") for m in layers)
        plain = kind((1, 8, 8), (5,), width=4)
        assert not any(nn.utils.parametrize.is_parametrized(m) for m in plain.modules())


# -- projection ----------------------------------------------------------------------------------------------------------

PROJECTIONS = [
    (ProjectionMLP, MLPDiscriminator, 8),
    (ProjectionConv, ConvDiscriminator, 16 * 4 * 3),
    (ProjectionResidual, ResidualDiscriminator, 16),
]


def phi(net: Any, features: list[Tensor]) -> Tensor:
    """What each paper's critic ends in, from the last activations that it returns."""
    if isinstance(net, ProjectionResidual):
        return features[-1].relu().sum((2, 3))
    return features[-1].flatten(1)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "plain", "size"), PROJECTIONS)
def test_the_logit_is_the_papers_formula(kind: Any, plain: Any, size: int) -> None:
    torch.manual_seed(0)
    net = kind((2, 7, 5), 3, width=8, depth=1)
    x, label = torch.randn(5, 2, 7, 5), torch.tensor([2, 0, 1, 1, 2])
    logits, features = net(x, label)
    assert net.embed.weight.shape == (3, size)
    for b in range(5):
        inner = phi(net, features)[b]
        expected = inner @ net.body.to_logit.weight[0] + net.body.to_logit.bias[0] + inner @ net.embed.weight[label[b]]
        torch.testing.assert_close(logits[b], expected)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "plain", "size"), PROJECTIONS)
def test_another_label_adds_the_difference_of_embeddings_and_no_embedding_nothing(kind: Any, plain: Any, size: int) -> None:
    torch.manual_seed(0)
    net, bare = kind((2, 7, 5), 3, width=8, depth=1), plain((2, 7, 5), width=8, depth=1)
    x = torch.randn(5, 2, 7, 5)
    ones, twos = torch.full((5,), 1), torch.full((5,), 2)
    inner = phi(net, net(x, ones)[1])
    difference = inner @ (net.embed.weight[2] - net.embed.weight[1])
    assert difference.abs().min() > 0
    torch.testing.assert_close(net(x, twos)[0] - net(x, ones)[0], difference, rtol=1e-3, atol=1e-4)
    nn.init.zeros_(net.embed.weight)
    bare.load_state_dict(net.body.state_dict())
    torch.testing.assert_close(net(x, twos)[0], bare(x)[0])


@pytest.mark.parametrize("kind", [ProjectionMLP, ProjectionConv, ProjectionResidual])
def test_embeddings_start_as_small_as_other_weights(kind: Any) -> None:
    torch.manual_seed(0)
    net = kind((1, 8, 8), 10, width=64, depth=1)
    bound = math.sqrt(6 / sum(net.embed.weight.shape))
    assert 0.97 * bound < float(net.embed.weight.detach().abs().max()) <= bound


# -- samples of a batch side by side -------------------------------------------------------------------------------------


def spread(x: np.ndarray[Any, Any]) -> float:
    return float(np.mean(np.sqrt(np.var(x, axis=0) + 1e-8)))


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [(1, [1]), (3, [3]), (4, [4]), (5, [5]), (7, [7]), (8, [4, 4]), (10, [5, 5]), (15, [5, 5, 5]), (13, [5, 4, 4])],
)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5)])
def test_minibatch_standard_deviation_is_numpys(batch: int, sizes: list[int], shape: tuple[int, ...]) -> None:
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, batch + 1).reshape(
        -1, *[1] * len(shape)
    )
    got = MinibatchStd(group=4)(x)
    assert got.shape == (batch, shape[0] + 1, *shape[1:])
    assert torch.equal(got[:, :-1], x)
    start = 0
    for size in sizes:
        expected = spread(x[start : start + size].numpy())
        torch.testing.assert_close(got[start : start + size, -1], torch.full((size, *shape[1:]), expected))
        start += size
    assert start == batch


def test_minibatch_standard_deviation_of_a_known_batch() -> None:
    x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [2.0, 4.0]])  # deviations sqrt(8/3) and sqrt(2)
    expected = (math.sqrt(8 / 3) + math.sqrt(2)) / 2
    torch.testing.assert_close(MinibatchStd()(x)[:, 2], torch.full((3,), expected))
    assert MinibatchStd()(x[:1])[0, 2] == pytest.approx(1e-4)
    equal = torch.ones(3, 2, requires_grad=True)
    MinibatchStd()(equal)[:, 2].sum().backward()
    assert equal.grad is not None
    assert not equal.grad.any()  # and not nan


def test_the_standard_deviation_compiles_for_any_batch() -> None:
    layer = torch.compile(MinibatchStd(), fullgraph=True, backend="aot_eager")
    for batch in (8, 7, 13):
        x = torch.randn(batch, 2, 3, 3)
        torch.testing.assert_close(layer(x), MinibatchStd()(x))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(6,), (2, 1, 3)])
def test_minibatch_discrimination_is_the_papers_double_loop(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(shape, kernels=3, dims=4)
    nn.init.normal_(layer.tensor.weight, std=0.3)
    x = torch.randn(5, *shape)
    rows = [(layer.tensor.weight @ sample.flatten()).reshape(3, 4) for sample in x]
    got = layer(x)
    assert torch.equal(got[:, : shape[0]], x)
    for i in range(5):
        near = torch.zeros(3)
        for j in range(5):
            near += torch.exp(
                -torch.stack(
                    [sum(abs(a - b) for a, b in zip(p, q, strict=True)) for p, q in zip(rows[i], rows[j], strict=True)]
                )
            )
        expected = near.reshape(-1, *[1] * (len(shape) - 1)).expand(3, *shape[1:])
        torch.testing.assert_close(got[i, shape[0] :], expected)


def test_distances_start_on_the_scale_of_the_activations() -> None:
    torch.manual_seed(0)
    weight = MinibatchDiscrimination((50, 2, 4), kernels=16, dims=5).tensor.weight.detach()
    assert weight.shape == (80, 400)
    assert float(weight.std()) == pytest.approx(1 / 20, rel=0.03)


@torch.no_grad()
@pytest.mark.parametrize("kind", [MLPDiscriminator, ConvDiscriminator, ResidualDiscriminator, R3Discriminator])
@pytest.mark.parametrize("minibatch", ["stddev", "discrimination"])
def test_a_repeating_batch_is_told_from_a_varied_one(kind: Any, minibatch: Any) -> None:
    """The same sample is judged otherwise among its likes than among others; without the layer it is not."""
    torch.manual_seed(0)
    varied = torch.randn(4, 2, 8, 8)
    same = varied[:1].expand(4, -1, -1, -1)
    net = kind((2, 8, 8), width=8, minibatch=minibatch)
    assert (net(varied)[0][0] - net(same)[0][0]).abs() > 1e-4
    plain = kind((2, 8, 8), width=8)
    torch.testing.assert_close(plain(varied)[0][0], plain(same)[0][0])
    assert len(net(varied)[1]) == len(plain(varied)[1])


@torch.no_grad()
@pytest.mark.parametrize("minibatch", ["stddev", "discrimination"])
def test_what_the_batch_says_goes_through_a_layer_and_an_activation_of_its_own(minibatch: Any) -> None:
    torch.manual_seed(0)
    net = MLPDiscriminator((5,), width=6, activation="relu", minibatch=minibatch)
    statistic, linear, _ = net.mix  # type: ignore[misc]
    assert linear.weight.shape == (6, 6 + {"stddev": 1, "discrimination": 16}[minibatch])
    logits, features = net(torch.randn(4, 5))
    h = (statistic(features[-1]) @ linear.weight.T + linear.bias).relu()
    torch.testing.assert_close(logits, h @ net.to_logit.weight[0] + net.to_logit.bias)
    wide = ConvDiscriminator((1, 8, 8), width=32, minibatch=minibatch)
    mix = wide.mix[1].weight  # type: ignore[index]
    assert mix.shape[2:] == (3, 3)
    assert float(mix.std()) == pytest.approx((2 / 1.04 / mix[0].numel()) ** 0.5, rel=0.03)
