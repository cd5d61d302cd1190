"""Networks: any height, width and channel count; options that do what they say; what all of them have to promise."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from common import VAE
from torch import Tensor, nn

from hybridgen.errors import RecipeError
from hybridgen.graph import couples_batch
from hybridgen.step import Training
from hybridgen_nets.conditional import (
    ConditionalConvDecoder,
    ConditionalConvEncoder,
    ConditionalMLPDecoder,
    ConditionalMLPEncoder,
    ConditionalResidualDecoder,
    ConditionalResidualEncoder,
)
from hybridgen_nets.conv import ConvDecoder, ConvDiscriminator, ConvEncoder
from hybridgen_nets.joint import JointConv, JointMLP
from hybridgen_nets.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder
from hybridgen_nets.patch import PatchDiscriminator
from hybridgen_nets.projection import ProjectionConv, ProjectionMLP, ProjectionResidual
from hybridgen_nets.r3gan import R3Decoder, R3Discriminator, R3Encoder
from hybridgen_nets.residual import ResidualDecoder, ResidualDiscriminator, ResidualEncoder
from hybridgen_nets.sizes import sizes

SHAPES = [(1, 8, 8), (3, 64, 64), (1, 28, 28), (3, 17, 33), (2, 5, 40), (4, 1, 9), (1, 1, 1)]
CLASSES = 3
LATENT = (2, 3)

PLAIN = [
    (ConvEncoder, ConvDecoder, ConvDiscriminator),
    (MLPEncoder, MLPDecoder, MLPDiscriminator),
    (ResidualEncoder, ResidualDecoder, ResidualDiscriminator),
    (R3Encoder, R3Decoder, R3Discriminator),
]
CONDITIONAL = [
    (ConditionalConvEncoder, ConditionalConvDecoder, ProjectionConv),
    (ConditionalMLPEncoder, ConditionalMLPDecoder, ProjectionMLP),
    (ConditionalResidualEncoder, ConditionalResidualDecoder, ProjectionResidual),
]
IN_THE_PLANE = [family[:2] for family in (*PLAIN, *CONDITIONAL) if "MLP" not in family[0].__name__]


def labelled(kind: Any) -> bool:
    return "num_classes" in inspect.signature(kind).parameters


def joint(kind: Any) -> bool:
    return {"judged_shape", "z_shape"} <= set(inspect.signature(kind).parameters)


def given(kind: Any, *shapes: Any, **options: Any) -> nn.Module:
    """A small network, told how many classes there are if it asks, and what a latent looks like if it judges pairs."""
    return kind(*shapes, *([CLASSES] if labelled(kind) else []), *([LATENT] if joint(kind) else []), **{"width": 4} | options)


def inputs(kind: Any, shape: tuple[int, ...], count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, *shape, generator=generator)
    if joint(kind):
        return x, torch.randn(count, *LATENT, generator=generator)
    return (x, torch.arange(count) % CLASSES) if labelled(kind) else (x,)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("encoder", "decoder", "critic"), [*PLAIN, *CONDITIONAL])
def test_every_size_goes_in_and_comes_out(shape: tuple[int, ...], encoder: Any, decoder: Any, critic: Any) -> None:
    assert given(encoder, shape, (6,))(*inputs(encoder, shape, 3)).shape == (3, 6)
    assert given(decoder, (5,), shape)(*inputs(decoder, (5,), 3)).shape == (3, *shape)
    logits, features = given(critic, shape)(*inputs(critic, shape, 3))
    assert logits.shape == (3,)
    assert all(f.shape[0] == 3 for f in features)
    assert len(features) >= 1


# -- one example of each, with what makes it special ---------------------------------------------------------------------

SHAPE = (2, 7, 10)
ATTEND = {"attention": 5}
NETS: dict[str, tuple[Any, tuple[int, ...], Callable[[], nn.Module]]] = {}


def _add(name: str, kind: Any, shape: tuple[int, ...], *shapes: Any, **options: Any) -> None:
    NETS[name] = (kind, shape, lambda: given(kind, *shapes, **options))


for enc, dec, disc in (*PLAIN, *CONDITIONAL):
    more = ATTEND if "Residual" in enc.__name__ else {}
    _add(enc.__name__, enc, SHAPE, SHAPE, (2, 3), **more)
    _add(dec.__name__, dec, (5,), (5,), SHAPE, **more)
    _add(disc.__name__, disc, SHAPE, SHAPE, **more)
for enc, dec in IN_THE_PLANE:
    _add(f"{enc.__name__} in the plane", enc, SHAPE, SHAPE, (6, 4, 5))
    _add(f"{dec.__name__} in the plane", dec, (3, 4, 5), (3, 4, 5), SHAPE)
_add("ConditionalResidualDecoder by concatenation", ConditionalResidualDecoder, (5,), (5,), SHAPE, condition="concat")
_add("PatchDiscriminator", PatchDiscriminator, SHAPE, SHAPE)
for disc in (JointMLP, JointConv):
    _add(disc.__name__, disc, SHAPE, SHAPE)
COUPLED: dict[str, tuple[Any, tuple[int, ...], Callable[[], nn.Module]]] = {}
CRITICS = [MLPDiscriminator, ConvDiscriminator, ResidualDiscriminator, R3Discriminator, ProjectionMLP, ProjectionConv]
for disc in (*CRITICS, ProjectionResidual, JointMLP):
    for how in ("stddev", "discrimination"):
        _add(f"{disc.__name__} {how}", disc, SHAPE, SHAPE, minibatch=how)
        COUPLED[f"{disc.__name__} {how}"] = NETS.pop(f"{disc.__name__} {how}")
_add("PatchDiscriminator batch", PatchDiscriminator, SHAPE, SHAPE, norm="batch")
COUPLED["PatchDiscriminator batch"] = NETS.pop("PatchDiscriminator batch")
EVERY = NETS | COUPLED
JUDGES = {name: made for name, made in EVERY.items() if "Discriminator" in name or "Projection" in name or "Joint" in name}


def out(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def ready(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network a step away from its initial weights, where what starts at zero has left it."""
    torch.manual_seed(0)
    kind, shape, make = EVERY[name]
    net, x = make(), inputs(kind, shape, 5)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(2):  # attention's gamma and Fixup's last layers move first, what stands behind them next
        optimiser.zero_grad()
        out(net(*x)).square().sum().backward()
        optimiser.step()
    return net, x


@pytest.mark.parametrize("name", NETS)
def test_a_sample_alone_is_the_sample_in_a_batch(name: str) -> None:
    net, x = ready(name)
    assert not couples_batch(net)
    together = out(net(*x))
    for i in range(len(together)):
        alone = out(net(*(part[i : i + 1] for part in x)))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COUPLED)
def test_what_declares_that_it_couples_a_batch_does(name: str) -> None:
    net, x = ready(name)
    assert couples_batch(net)
    before = out(net(*x))[0]
    x[0][1] = x[0][0]  # another sample of the batch
    assert (out(net(*x))[0] - before).abs().max() > 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    net, x = ready(name)
    net.zero_grad()
    out(net(*x)).pow(3).sum().backward()
    silent = {k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == set()


@pytest.mark.parametrize("name", EVERY)
def test_a_copy_and_a_stand_in_on_the_meta_device_are_like_it(name: str) -> None:
    net, x = ready(name)
    net.eval()
    assert torch.equal(out(copy.deepcopy(net)(*x)), out(net(*x)))
    with torch.device("meta"):
        shadow = EVERY[name][2]()
        result = shadow(*(torch.empty_like(part, device="meta") for part in x))
    assert out(result).shape == out(net(*x)).shape
    assert all(p.is_meta for p in shadow.parameters())


def penalised(net: nn.Module, x: tuple[Tensor, ...]) -> Tensor:
    """The squared gradient at x, as the losses take it."""

    def judged(x0: Tensor) -> Tensor:
        weights = dict(net.named_parameters()) | {k: b.clone() for k, b in net.named_buffers()}
        return out(torch.func.functional_call(net, weights, (x0, *x[1:]))).sum()

    return torch.func.grad(judged)(x[0]).square().sum()


@pytest.mark.parametrize("name", JUDGES)
def test_a_penalty_on_its_gradient_has_the_gradient_of_the_difference_quotient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The derivative of |d/dx D(x)|^2 along a direction of the weights, against finite differences in float64."""
    for kinked in ("relu", "leaky_relu"):  # a difference quotient wants something smooth
        monkeypatch.setattr(F, kinked, lambda x, *_, **__: F.silu(x))
    monkeypatch.setattr(Tensor, "float", lambda x: x)  # minibatch layers would round
    net, x = ready(name)
    net.double().zero_grad()
    x = (x[0].double(), *x[1:])
    generator = torch.Generator().manual_seed(1)
    direction = {
        k: p.detach().abs().mean() * torch.randn(p.shape, generator=generator, dtype=p.dtype) for k, p in net.named_parameters()
    }
    penalised(net, x).backward()
    got = sum((p.grad * direction[k]).sum() for k, p in net.named_parameters() if p.grad is not None)
    step, values = 1e-6, []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        for k, p in moved.named_parameters():
            p.data += sign * step * direction[k]
        values.append(penalised(moved, x).detach())
    torch.testing.assert_close(got, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-8)


def test_a_penalty_compiles_whole() -> None:
    """One that has it all; the small recipes compile the others."""
    net, x = ready("ProjectionResidual discrimination")
    expected = penalised(net, x)
    got = torch.compile(penalised, fullgraph=True, backend="aot_eager")(net, x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# -- options -------------------------------------------------------------------------------------------------------------

NORMS = (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)


@pytest.mark.parametrize("norm", ["none", "group", "layer", "batch"])
@pytest.mark.parametrize("activation", ["silu", "relu", "leaky-relu", "gelu"])
def test_options_build_what_they_name(norm: Any, activation: Any) -> None:
    kinds: dict[str, Any] = {"none": (), "group": nn.GroupNorm, "layer": nn.GroupNorm, "batch": NORMS[1:]}
    acts = {"silu": nn.SiLU, "relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "gelu": nn.GELU}
    options = {"width": 8, "norm": norm, "activation": activation, "dropout": 0.1}
    for encoder, decoder, critic in [*PLAIN[:3], *CONDITIONAL]:
        if norm == "none" and decoder is ConditionalResidualDecoder:
            continue
        shape = (1, 8, 8)
        for made in (
            given(encoder, shape, (4,), **options),
            given(decoder, (4,), shape, **options),
            given(critic, shape, **options),
        ):
            modules = list(made.modules())
            found = [m for m in modules if isinstance(m, NORMS)]
            assert bool(found) == (norm != "none")
            assert norm == "none" or all(isinstance(m, kinds[norm]) for m in found)
            assert norm not in ("layer",) or all(m.num_groups == 1 for m in found)  # type: ignore[union-attr]
            assert {type(m) for m in modules} & set(acts.values()) == {acts[activation]}
            assert any(isinstance(m, (nn.Dropout, nn.Dropout2d)) for m in modules)


def test_dropout_drops_in_training_alone() -> None:
    for kind in (MLPEncoder, ConvEncoder, ResidualEncoder):
        torch.manual_seed(0)
        net, x = kind((1, 8, 8), (4,), width=8, dropout=0.5), torch.randn(2, 1, 8, 8)
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))


def test_width_and_depth() -> None:
    narrow, wide = (sum(p.numel() for p in ConvEncoder((1, 16, 16), (4,), width=w).parameters()) for w in (8, 16))
    assert wide > 3 * narrow
    convs = [m for m in ConvEncoder((1, 16, 16), (4,), width=8, depth=3).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [8, 16, 32, 64]
    assert sum(isinstance(m, nn.Linear) for m in MLPEncoder((4,), (2,), width=8, depth=3).modules()) == 4
    for _, decoder, critic in (PLAIN[0], *PLAIN[2:]):
        features = critic((1, 17, 12), width=8, depth=3)(torch.randn(1, 1, 17, 12))[1]
        assert [tuple(f.shape[1:]) for f in features] == [(8, 17, 12), (16, 9, 6), (32, 5, 3), (64, 3, 2)]
        assert decoder((4,), (1, 17, 12), width=8, depth=3)(torch.randn(1, 4)).shape == (1, 1, 17, 12)


@pytest.mark.parametrize(
    "kind",
    [
        MLPDiscriminator,
        ConvDiscriminator,
        ResidualDiscriminator,
        PatchDiscriminator,
        JointMLP,
        JointConv,
        *[family[2] for family in CONDITIONAL],
    ],
)
def test_spectral_norm_bounds_every_weight(kind: Any) -> None:
    torch.manual_seed(0)
    more = {"minibatch": "discrimination"} if kind not in (PatchDiscriminator, JointConv) else {}
    more |= {"attention": 4} if "Residual" in kind.__name__ else {}
    critic = given(kind, (1, 8, 8), width=8, spectral_norm=True, **more)
    x = inputs(kind, (1, 8, 8), 2)
    for _ in range(60):  # power iterations
        critic(*x)
    bounded = [m for m in critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]
    assert len(bounded) >= 3
    assert sum(isinstance(m, nn.Embedding) for m in bounded) == labelled(kind)
    for module in bounded:
        assert float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)) == pytest.approx(1.0, rel=0.05)


# -- widths of their own ---------------------------------------------------------------------------------------------------


def maps(net: nn.Module) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear map, in order."""
    return [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]


def test_each_hidden_layer_may_have_a_width_of_its_own_from_the_input_on() -> None:
    """An encoder's list is its decoder's turned round, as 64-32-2 is drawn."""
    encoder, decoder = MLPEncoder((1, 4, 4), (2,), width=(64, 32)), MLPDecoder((2,), (1, 4, 4), width=(32, 64))
    assert maps(encoder) == [(16, 64), (64, 32), (32, 2)]
    assert maps(decoder) == [(o, i) for i, o in reversed(maps(encoder))]
    assert decoder(encoder(torch.randn(3, 1, 4, 4))).shape == (3, 1, 4, 4)
    critic = MLPDiscriminator((7,), width=(9, 5, 3))
    assert maps(critic) == [(7, 9), (9, 5), (5, 3), (3, 1)]
    assert [f.shape for f in critic(torch.randn(2, 7))[1]] == [(2, 9), (2, 5), (2, 3)]
    mixed = MLPDiscriminator((7,), width=(9, 5), minibatch="stddev", norm="group")
    assert mixed(torch.randn(2, 7))[0].shape == (2,)
    assert maps(MLPEncoder((7,), (2,), width=(9,))) == [(7, 9), (9, 2)]


def test_conditional_and_joint_networks_take_lists_too() -> None:
    assert maps(given(ConditionalMLPEncoder, (5,), (2,), width=(9, 4)))[1:] == [(9, 4), (4, 2)]
    assert maps(given(ConditionalMLPDecoder, (2,), (5,), width=(4, 9)))[1:] == [(4, 9), (9, 5)]
    assert maps(given(ProjectionMLP, (5,), width=(9, 4))) == [(5, 9), (9, 4), (4, 1)]
    assert given(ProjectionMLP, (5,), width=(9, 4)).embed.embedding_dim == 4
    assert maps(given(JointMLP, (5,), width=(9, 4))) == [(5 + 6, 9), (9, 4), (4, 1)]


def test_one_number_is_the_width_of_two_layers_or_of_as_many_as_depth_says() -> None:
    assert maps(MLPEncoder((7,), (2,), width=5)) == [(7, 5), (5, 5), (5, 2)]
    assert maps(MLPEncoder((7,), (2,), width=5, depth=1)) == [(7, 5), (5, 2)]
    assert maps(MLPEncoder((7,), (2,), width=(9, 5), depth=2)) == maps(MLPEncoder((7,), (2,), width=(9, 5)))


def test_a_list_that_contradicts_depth_is_told_where_it_stands(training: Callable[..., Training]) -> None:
    built = training(VAE.replace("width = 16", "width = [16, 8]", 1))
    assert maps(built.model.parts["encoder"]) == [(64, 16), (16, 8), (8, 8)]
    expected = r"test.toml:\d+  encoder: width = \[16, 8\] lists 2 hidden layers, depth = 3; remove depth \[plugin nets\]"
    with pytest.raises(RecipeError, match=expected):
        training(VAE.replace("width = 16", "width = [16, 8]\ndepth = 3", 1))


@pytest.mark.parametrize(
    ("width", "expected"),
    [("[]", "at least 1 item"), ("[8, 0]", "entry 1: input should be greater"), ("0", "greater than or equal to 1")],
)
def test_a_layer_without_units_is_told(width: str, expected: str, training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=rf"encoder.width.*{expected}.*expected int \| list of int, >= 1, default 256"):
        training(VAE, f"encoder.width={width}")


# -- initial weights -----------------------------------------------------------------------------------------------------


def test_he_initialisation_keeps_the_scale_through_depth() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 1, 32, 32)
    deep = MLPDiscriminator((1, 32, 32), depth=6, activation="relu")
    for net in (ConvDiscriminator((1, 32, 32), width=16, activation="relu"), deep):
        scales = [float(f.detach().square().mean().sqrt()) for f in net(x)[1]]
        assert max(scales) / min(scales) < 3


DRAWN = [
    (lambda: ConvEncoder((3, 17, 33), (6,), width=8), (3, 17, 33), 0.0577242),
    (lambda: ConvDecoder((5,), (3, 17, 33), width=8), (5,), -0.0842992),
    (lambda: ConvDiscriminator((1, 8, 8), width=8), (1, 8, 8), 0.376056),
    (lambda: MLPEncoder((1, 8, 8), (6,), width=8), (1, 8, 8), 0.1131152),
    (lambda: MLPDecoder((4,), (1, 8, 8), width=8), (4,), -0.2404336),
    (lambda: MLPDiscriminator((1, 8, 8), width=8), (1, 8, 8), 0.3058899),
]
"""Networks of shipped recipes: what each says of a ramp when it was drawn with seed 3."""


@pytest.mark.parametrize(("make", "shape", "said"), DRAWN)
def test_networks_of_shipped_recipes_are_drawn_as_when_their_figures_were_measured(make: Any, shape: Any, said: float) -> None:
    torch.manual_seed(3)
    net = make()
    x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(1, *shape)
    assert float(out(net(x)).flatten()[0].detach()) == pytest.approx(said, rel=1e-4)


@pytest.mark.parametrize("kind", [ConvEncoder, ConvDecoder, ConvDiscriminator, ProjectionConv, ConditionalConvDecoder])
def test_dcgan_initialisation(kind: Any) -> None:
    torch.manual_seed(0)
    shapes = {"E": [(1, 16, 16), (64,)], "D": [(64,), (1, 16, 16)]}
    one = [(1, 16, 16)]
    net = given(kind, *shapes.get(kind.__name__.removeprefix("Conditional")[4], one) if "coder" in kind.__name__ else one,
                width=32, norm="group", init="dcgan")  # fmt: skip
    convs = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    for layer in convs:
        count = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5)
        assert float(layer.weight.detach().mean().abs()) < 5 * 0.02 / count**0.5
        assert layer.bias is not None
        assert not layer.bias.any()
    norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    weights = torch.cat([m.weight.detach() for m in norms])
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(weights.std()) == pytest.approx(0.02, rel=0.3)
    assert not any(m.bias.any() for m in norms)


# -- sizes ---------------------------------------------------------------------------------------------------------------


def test_sides_are_halved_rounding_up_until_the_shorter_is_at_most_four() -> None:
    assert sizes((1, 28, 28), None, "it") == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert sizes((1, 17, 33), None, "it") == [(17, 33), (9, 17), (5, 9), (3, 5)]
    assert sizes((1, 4, 4), None, "it") == [(4, 4), (2, 2)]  # once at least
    assert sizes((1, 1, 9), None, "it") == [(1, 9), (1, 5)]
    assert sizes((1, 1, 1), None, "it") == [(1, 1)]
    assert sizes((1, 28, 20), 1, "it") == [(28, 20), (14, 10)]
    assert sizes((1, 28, 20), 0, "it") == [(28, 20)]
    assert sizes((1, 8, 3), 3, "it")[-1] == (1, 1)


def test_a_spatial_code_says_how_often_to_halve() -> None:
    assert sizes((1, 17, 33), None, "it", (7, 5, 9)) == [(17, 33), (9, 17), (5, 9)]
    assert sizes((1, 17, 33), None, "it", (7, 17, 33)) == [(17, 33)]
    assert sizes((1, 1, 1), None, "it", (7, 1, 1)) == [(1, 1)]
    assert len(sizes((1, 17, 33), None, "it", (5, 9))) == 4  # no place in the plane


@pytest.mark.parametrize(("encoder", "decoder"), IN_THE_PLANE)
@pytest.mark.parametrize(
    ("shape", "sides"), [((1, 8, 8), (2, 2)), ((3, 17, 33), (9, 17)), ((2, 5, 40), (5, 40)), ((4, 1, 9), (1, 3))]
)
def test_spatial_codes_go_in_and_come_out_by_convolutions_alone(encoder: Any, decoder: Any, shape: Any, sides: Any) -> None:
    net = given(encoder, shape, (6, *sides))
    assert net(*inputs(encoder, shape, 3)).shape == (3, 6, *sides)
    back = given(decoder, (3, *sides), shape)
    assert back(*inputs(decoder, (3, *sides), 3)).shape == (3, *shape)
    for made in (net, back):
        assert not any(isinstance(m, nn.Linear) for m in made.modules())


def test_a_spatial_code_sees_its_neighbourhood_only() -> None:
    """One halving with kernels of 3 (norms off): a place of the code sees 7 pixels, a pixel comes from 3 places or fewer."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    ConvEncoder((1, 16, 16), (2, 8, 8), width=4, norm="none")(x)[0, :, 4, 4].sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0].abs() > 0
    assert seen[6:11, 6:11].any()
    seen[6:11, 6:11] = False  # 2 * 4 - 1 - 1 to 2 * 4 + 1 + 1
    assert not seen.any()


def test_a_spatial_latent_enters_with_its_neighbourhood() -> None:
    """No halving and no other spatial layer but the last: a place of z reaches 5 pixels across, two kernels of 3."""
    torch.manual_seed(0)
    net = ConvDecoder((2, 9, 9), (1, 9, 9), width=4, norm="none")
    z = torch.randn(1, 2, 9, 9)
    before = net(z)
    z[0, 1, 4, 4] += 1.0
    changed = (net(z) != before)[0, 0]
    assert changed[2:7, 2:7].all()
    assert int(changed.sum()) == 25


def test_vectors_and_codes_of_any_shape() -> None:
    assert MLPEncoder((7,), (2, 3), width=4)(torch.randn(2, 7)).shape == (2, 2, 3)
    assert MLPDecoder((4, 2, 2), (7,), width=4)(torch.randn(2, 4, 2, 2)).shape == (2, 7)
    assert ConvDecoder((4, 2, 2), (1, 8, 8), width=4)(torch.randn(2, 4, 2, 2)).shape == (2, 1, 8, 8)
    for encoder, decoder in [family[:2] for family in (*PLAIN, *CONDITIONAL)]:
        assert given(encoder, (1, 8, 8), (2, 3))(*inputs(encoder, (1, 8, 8), 2)).shape == (2, 2, 3)
        assert given(decoder, (2, 3), (1, 8, 8))(*inputs(decoder, (2, 3), 2)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("encoder", "decoder"), IN_THE_PLANE)
def test_sides_that_do_not_fit_are_refused_with_those_that_would(encoder: Any, decoder: Any) -> None:
    fits = r"halving 9x8 never gives a code of 3x3; sides that would fit: 9x8, 5x4, 3x2, 2x1, 1x1"
    with pytest.raises(ValueError, match=fits):
        given(encoder, (1, 9, 8), (6, 3, 3))
    with pytest.raises(ValueError, match=fits):
        given(decoder, (6, 3, 3), (1, 9, 8))
    with pytest.raises(ValueError, match=r"depth = 3, but a code of 3x2 is 2 halvings of 9x8; leave `depth` out"):
        given(encoder, (1, 9, 8), (6, 3, 2), depth=3)
    assert given(decoder, (6, 3, 2), (1, 9, 8), depth=2)(*inputs(decoder, (6, 3, 2), 2)).shape == (2, 1, 9, 8)


@pytest.mark.parametrize("family", [*PLAIN, *CONDITIONAL])
def test_what_is_no_picture_and_too_many_halvings_are_refused(family: Any) -> None:
    if "MLP" in family[0].__name__:
        return
    for kind, shapes in zip(family, ([(2,), (4,)], [(4,), (2,)], [(2,)]), strict=True):
        with pytest.raises(ValueError, match='use "mlp"'):
            given(kind, *shapes)
    for kind, shapes in zip(family, ([(1, 8, 8), (4,)], [(4,), (1, 8, 8)], [(1, 8, 8)]), strict=True):
        with pytest.raises(ValueError, match="write at most 3"):
            given(kind, *shapes, depth=5)
