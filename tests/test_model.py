"""Building: facts, shapes and faults, found on the meta device and told in words."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import AE, LABELLED, SPEC, VAE, VAGAN
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.errors import RecipeError
from hybridgen.model import build, check
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import load_registry

Load = Callable[..., Recipe]


class Crooked(nn.Module):
    """A decoder whose picture has another size."""

    def __init__(self, z_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.map = nn.Linear(z_shape[0], 49)

    def forward(self, z: Tensor) -> Tensor:
        return self.map(z).reshape(-1, 1, 7, 7)


class Stumbling(nn.Module):
    """A decoder that raises in its constructor."""

    def __init__(self, z_shape: tuple[int, ...]) -> None:
        super().__init__()
        raise KeyError("weights")


class Classes(nn.Module):
    """A decoder that needs labels."""

    def __init__(self, z_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.map = nn.Linear(z_shape[0], num_classes)

    def forward(self, z: Tensor) -> Tensor:
        return self.map(z)


class PerSample(nn.Module):
    """A loss that forgets to average."""

    def forward(self, recon: Tensor) -> Tensor:
        return recon.flatten(1).sum(1)


class Lookalike(nn.Module):
    """A latent without shapes."""

    def posterior(self, code: Tensor) -> Any:
        return code


def made(text: str, tmp_path: Any) -> Recipe:
    @hookimpl
    def register_components(register: Any) -> None:
        for name, component in (("crooked", Crooked), ("stumbling", Stumbling), ("classes", Classes)):
            register.decoder(name, component)
        register.loss("per-sample", PerSample)
        register.latent("lookalike", Lookalike)

    registry = load_registry(extra={"mine": SimpleNamespace(register_components=register_components)})
    (tmp_path / "m.toml").write_text(text)
    return load_recipe(tmp_path / "m.toml", registry=registry)


def decoder(name: str) -> str:
    return AE.replace('[decoder]\nuse = "mlp"\nwidth = 16', f'[decoder]\nuse = "{name}"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (decoder("crooked"), r"m\.toml:\d+  decoder: `recon_raw` has the shape \(b, 1, 7, 7\), expected \(b, 1, 8, 8\)"),
        (decoder("stumbling"), r"decoder 'stumbling' can't be constructed: KeyError: 'weights' \(test_model.py:\d+\)"),
        (decoder("classes"), "needs the fact `num_classes`: the data has no labels"),
        (AE + '[loss.more]\nuse = "per-sample"\n', r"returned a tensor of shape \(2,\); expected a scalar tensor"),
        (AE.replace('"deterministic"\ndim = 4', '"lookalike"'), "states no code_shape and no z_shape"),
        (AE.replace('[latent]\nuse = "deterministic"\ndim = 4\n', ""), r"`code_shape`: there is no \[latent\]"),
    ],
)
def test_what_does_not_fit_is_told_where_it_arises(text: str, expected: str, tmp_path: Any) -> None:
    with pytest.raises(RecipeError, match=expected):
        check(made(text, tmp_path), SPEC)


def test_a_check_takes_no_memory_and_leaves_the_random_state_alone(recipe: Load) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    huge = VAE.replace("width = 16", "width = 500000")  # 10^12 parameters
    check(recipe(huge.replace('use = "mlp"', 'use = "mlp"\ndepth = 4')), SPEC)
    assert torch.equal(torch.rand(2), expected)


def test_each_part_starts_from_a_stream_of_its_own(recipe: Load) -> None:
    one, more = build(recipe(VAE), SPEC), build(recipe(VAGAN), SPEC)
    for path in ("encoder", "decoder"):
        for a, b in zip(one.parts[path].parameters(), more.parts[path].parameters(), strict=True):
            assert torch.equal(a, b)
    other = build(recipe(VAE, "train.seed=1"), SPEC)
    first = next(other.parts["encoder"].parameters())
    assert not torch.equal(first, next(one.parts["encoder"].parameters()))


def test_counts_and_states(recipe: Load) -> None:
    model = build(recipe(VAGAN), SPEC)
    counts = model.counts()
    assert set(counts) == {"encoder", "decoder", "discriminator.main"}
    assert counts["encoder"] == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 8 + 8
    copy = build(recipe(VAGAN, "train.seed=5"), SPEC)
    copy.load_state_dict(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name])


def test_names_that_exist_here(recipe: Load) -> None:
    plain, rich = build(recipe(AE), SPEC), build(recipe(VAGAN), LABELLED)
    assert {"x", "posterior", "recon", "noise"} <= set(plain.wiring.names())
    assert not {"z_prior", "fake", "real_logits", "label"} & set(plain.wiring.names())
    assert {"z_prior", "fake", "real_logits", "label", "critic", "log_likelihood"} <= set(rich.wiring.names())
