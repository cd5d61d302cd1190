"""What a denoising autoencoder's encoder sees: statistics of the noise, who sees it, and when nobody does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import AE, batch
from torch import Tensor

from hybridgen.errors import RecipeError
from hybridgen.step import Training, train_step
from hybridgen.use import GenerativeModel
from hybridgen_providers.corrupted import Corrupted

SHAPE = (2, 5, 7)
COUNT = 3000
VALUES = COUNT * 2 * 5 * 7


def seen(module: Corrupted, x: Tensor, seed: int = 0) -> Tensor:
    """What it makes of x, with noise of the kind and shape that it states."""
    ((name, (kind, shape)),) = module.draws.items()
    draw = {"normal": torch.randn, "uniform": torch.rand}[kind]
    return module(x, **{name: draw(len(x), *shape, generator=torch.Generator().manual_seed(seed))})


@pytest.mark.parametrize("amount", [0.1, 0.5, 2.0])
def test_gaussian_noise_has_the_standard_deviation_that_is_asked_for(amount: float) -> None:
    x = torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = (seen(Corrupted(SHAPE, amount=amount), x) - x).flatten(1)
    assert float(noise.mean()) == pytest.approx(0.0, abs=5 * amount / VALUES**0.5)
    assert float(noise.std()) == pytest.approx(amount, rel=5 / (2 * VALUES) ** 0.5)
    kurtosis = float(((noise - noise.mean()) / noise.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3.0, abs=5 * (24 / VALUES) ** 0.5)
    around = torch.corrcoef(noise.T) - torch.eye(noise.shape[1])
    assert float(around.abs().max()) < 6 / COUNT**0.5  # each value has noise of its own


@pytest.mark.parametrize(("amount", "blank"), [(0.1, -1.0), (0.5, 0.0), (0.9, 3.0)])
def test_masking_blanks_the_share_of_values_that_is_asked_for_and_keeps_the_others(amount: float, blank: float) -> None:
    x = torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1)) + 5  # nowhere a blank
    out = seen(Corrupted(SHAPE, kind="masking", amount=amount, blank=blank), x)
    masked = out == blank
    assert torch.equal(out[~masked], x[~masked])
    spread = (amount * (1 - amount) / VALUES) ** 0.5
    assert float(masked.float().mean()) == pytest.approx(amount, abs=5 * spread)
    places = masked.float().mean(0)  # every place alike, each by itself
    assert float((places - amount).abs().max()) < 6 * (amount * (1 - amount) / COUNT) ** 0.5
    around = torch.corrcoef(masked.flatten(1).float().T) - torch.eye(70)
    assert float(around.abs().max()) < 6 / COUNT**0.5


def test_its_defaults() -> None:
    x = torch.zeros(COUNT, *SHAPE)
    assert float(seen(Corrupted(SHAPE), x).std()) == pytest.approx(0.3, rel=0.02)
    assert set(seen(Corrupted(SHAPE, kind="masking"), x).unique().tolist()) == {-1.0, 0.0}


@pytest.mark.parametrize("kind", ["gaussian", "masking"])
def test_in_evaluation_nothing_is_changed(kind: Any) -> None:
    x = torch.randn(3, *SHAPE)
    module = Corrupted(SHAPE, kind=kind).eval()
    assert torch.equal(seen(module, x), x)
    assert not torch.equal(seen(module.train(), x), x)


def test_a_gradient_passes_where_x_does() -> None:
    x = torch.randn(4, *SHAPE, requires_grad=True)
    out = seen(Corrupted(SHAPE, kind="masking", amount=0.5, blank=9.0), x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(slope, (out != 9.0).float())


@pytest.mark.parametrize("amount", [1.0, 1.5])
def test_masking_everything_is_refused(amount: float, training: Callable[..., Training]) -> None:
    with pytest.raises(ValueError, match=f"masking takes a share below 1, got amount = {amount:g}: nothing of x would be left"):
        Corrupted(SHAPE, kind="masking", amount=amount)
    Corrupted(SHAPE, amount=amount)  # a standard deviation may be large
    text = AE + f'[quantity.x_corrupted]\nuse = "corrupted"\nkind = "masking"\namount = {amount}\n'
    with pytest.raises(RecipeError, match=r"test.toml:\d+  quantity.x_corrupted: masking takes a share below 1"):
        training(text)


def test_in_a_model_the_encoder_sees_it_the_loss_does_not_and_use_is_clean(training: Callable[..., Training]) -> None:
    text = (
        AE.replace("[decoder]", 'inputs = { x = "x_corrupted" }\n[decoder]', 1) + '[quantity.x_corrupted]\nuse = "corrupted"\n'
    )
    state = training(text, "optim.lr=0.0")
    shown: list[Tensor] = []
    encoder = state.model.parts["encoder"]
    hook = encoder.register_forward_pre_hook(lambda _, args, kwargs: shown.append(kwargs["x"]), with_kwargs=True)
    compared: list[Tensor] = []
    state.model.parts["loss.reconstruction"].register_forward_pre_hook(
        lambda _, args, kwargs: compared.append(kwargs["x"]), with_kwargs=True
    )
    data = batch(64)
    train_step(state, [data], 1)
    assert float((shown[-1] - data["x"]).std()) == pytest.approx(0.3, rel=0.1)
    assert torch.equal(compared[-1], data["x"])
    train_step(state, [data], 2)
    assert not torch.equal(shown[-1], shown[-2])  # anew each step
    hook.remove()
    model, parts = GenerativeModel(state.model, state.averaged), state.model.parts
    torch.testing.assert_close(model.reconstruct(data["x"]), parts["decoder"](parts["encoder"](data["x"])).tanh().detach())
