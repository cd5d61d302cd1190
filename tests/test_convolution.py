"""Convolutions by products: values and gradients of the vendor's kernels, at every order, and only where they are faster."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hybridgen import convolution
from hybridgen.compiling import _graph
from hybridgen.convolution import ChoosingConv2d, ChoosingConvTranspose2d, Products, Shape, install, products

LAYERS = {
    "3x3, stride 2, odd": (nn.Conv2d(6, 8, 3, stride=2, padding=1), (5, 6, 7, 9)),
    "4x4, stride 2": (nn.Conv2d(6, 8, 4, stride=2, padding=1), (2, 6, 7, 7)),
    "uneven": (nn.Conv2d(4, 8, (3, 5), stride=(2, 3), padding=(0, 2), bias=False), (2, 4, 9, 11)),
    "larger than x": (nn.Conv2d(4, 6, 7, padding=3), (2, 4, 1, 2)),
    "1x1": (nn.Conv2d(4, 8, 1), (3, 4, 5, 5)),
    "transposed": (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1), (3, 6, 3, 5)),
    "transposed, padded": (nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1), (3, 6, 3, 5)),
    "transposed, uneven": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 1), padding=(1, 0), bias=False), (2, 4, 4, 3)),
}


PLAIN = Shape(False, torch.Size((2, 4, 5, 5)), torch.Size((8, 4, 3, 3)), (2, 2), (1, 1), (0, 0), False)


@pytest.fixture(autouse=True)
def _as_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(convolution, "LARGE", 1)
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path))
    for cached in (convolution._known, products):
        cached.cache_clear()
    yield
    for cached in (convolution._known, products):
        cached.cache_clear()


ALL = Products(True, True, True)


def always(monkeypatch: pytest.MonkeyPatch, by: Products = ALL) -> None:
    monkeypatch.setattr(convolution, "products", lambda _: by)


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, first gradients, and those of a penalty on the input's gradient."""
    x = x.clone().requires_grad_()
    out = layer(x)
    weights = list(layer.parameters())
    first = torch.autograd.grad(out.square().sum(), [x, *weights], create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), [x, *weights])
    return [out, *first, *second]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("by", [ALL, *(Products(*(i == j for i in range(3))) for j in range(3))])
def test_gradients_are_the_vendors_at_first_and_second_order(
    name: str, last: bool, by: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch, by)
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    if last:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    expected = gradients(layer, x)
    monkeypatch.setattr(convolution, "_can", lambda *_: True)  # double for the comparison
    assert install([layer]) == 1
    made = set()
    for product in ("weight_gradient", "larger", "smaller"):
        apply = getattr(convolution, product)
        monkeypatch.setattr(convolution, product, lambda *a, n=product, f=apply: made.add(n) or f(*a))
    found = gradients(layer, x)
    assert made == {name for name, wanted in zip(("weight_gradient", "larger", "smaller"), by, strict=True) if wanted}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_function_transforms_and_copies_see_their_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties differentiate through `functional_call`, evaluation uses deep copies."""
    always(monkeypatch)
    layer = nn.ConvTranspose2d(3, 4, 2, stride=2)
    install([layer])
    other = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    x = torch.randn(2, 3, 3, 3)
    found = torch.func.grad(lambda w: functional_call(layer, w, (x,)).square().sum())(other)
    plain = nn.ConvTranspose2d(3, 4, 2, stride=2)
    plain.load_state_dict(other)
    plain(x).square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert layer(x).any()


@pytest.mark.parametrize("faster", [True, False])
def test_compiled_code_makes_the_choice_that_eager_code_makes(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_timed", lambda _: [(2.0, 1.0 if faster else 3.0)] * 3)
    layer, shape = LAYERS["transposed"]
    layer, x = copy.deepcopy(layer), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    layer(x).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    install([layer])
    graphs = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.print_readable(print_output=False))
        return graph

    compiled = _graph(lambda env, _: layer(env["x"]).square().sum(), backend=keep, whole=True)  # type: ignore[arg-type]
    compiled({"x": x}, {}).backward()  # type: ignore[attr-defined]
    assert ["overlapped" in graph for graph in graphs] == [faster]
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


def test_only_what_the_product_can_do_is_told() -> None:
    layers: list[Any] = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 4, 3),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
    ]
    assert install(layers) == 0
    assert install([nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))]) == 2


def test_small_layers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "LARGE", 1 << 17)
    assert install([nn.Conv2d(64, 128, 3)]) == 0
    assert install([nn.Conv2d(128, 128, 3)]) == 1


def test_in_evaluation_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Products:
        raise AssertionError

    monkeypatch.setattr(convolution, "products", never)
    layers = [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)]
    install(layers)
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        assert [layer.eval()(x).shape[1] for layer in layers] == [4, 4]
        assert [layer.train()(x[0]).shape[0] for layer in layers] == [4, 4]  # no batch
    assert [layer.double()(x.double()).shape[1] for layer in layers] == [4, 4]
    for layer in layers:
        layer.float().eval().requires_grad_(False)
        assert layer(x).shape[1] == 4
        with pytest.raises(AssertionError):  # a frozen network that others learn through
            layer(x.requires_grad_())
        x = x.detach()


def test_pictures_that_no_gradient_goes_through_are_made_as_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last of several critic updates see pictures made without a graph."""
    always(monkeypatch)
    layer, made = nn.ConvTranspose2d(3, 4, 2, stride=2), []
    install([layer])
    larger = convolution.larger
    monkeypatch.setattr(convolution, "larger", lambda *a: made.append(torch.is_grad_enabled()) or larger(*a))
    x = torch.randn(2, 3, 3, 3)
    with torch.no_grad():
        found = layer(x)
    assert torch.equal(layer(x), found)
    assert made == [False, False]  # a function of autograd runs without gradients itself


def test_a_shape_is_timed_once_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a_twentieth = (1.0, 0.95)  # is no reason
    times, calls = iter([[(1.0, 0.5), a_twentieth, (1.0, 1.0)], [(1.0, 2.0), (1.0, 0.1), (1.0, 0.8)]]), []

    def timed(shape: Shape) -> list[tuple[float, float]]:
        calls.append(shape)
        return next(times)

    monkeypatch.setattr(convolution, "_timed", timed)
    last = PLAIN._replace(last=True)
    for again in range(3):
        if again:
            convolution._known.cache_clear()
            products.cache_clear()
        assert products(PLAIN) == (True, False, False)
        assert products(last) == (False, True, True)
    assert calls == [PLAIN, last]
    (kept,) = json.loads((tmp_path / "convolutions.json").read_text()).values()
    assert list(kept.values()) == [[True, False, False], [False, True, True]]


def test_a_cache_that_cannot_be_read_or_written_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(convolution, "_timed", lambda _: [(1.0, 0.5)] * 3)
    (tmp_path / "convolutions.json").write_text("{ not json", encoding="utf-8")
    assert products(PLAIN) == (True, True, True)
    assert json.loads((tmp_path / "convolutions.json").read_text())
    products.cache_clear()
    convolution._known.cache_clear()
    (tmp_path / "convolutions.json").write_text(json.dumps({convolution._machine(): {convolution._key(PLAIN): [False, False]}}))
    assert products(PLAIN) == (True, True, True)  # an older version timed two ways
    products.cache_clear()
    convolution._known.cache_clear()
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "convolutions.json" / "no folder"))
    assert products(PLAIN) == (True, True, True)


def test_the_timing_is_of_both_ways() -> None:
    layers = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
    install(layers)
    assert [type(layer) for layer in layers] == [ChoosingConv2d, ChoosingConvTranspose2d]
    nn.Sequential(*layers)(torch.randn(2, 4, 8, 8)).sum().backward()
    assert all(layer.weight.grad is not None for layer in layers)
    assert len(convolution._known()) == 2
    for shape in (PLAIN, PLAIN._replace(last=True), PLAIN._replace(transposed=True, x=torch.Size((2, 8, 3, 3)), more=(1, 1))):
        assert min(seconds for pair in convolution._timed(shape) for seconds in pair) > 0
