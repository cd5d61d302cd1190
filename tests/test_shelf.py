"""Everything on the shelf at work in a model: each component in a small recipe that builds, trains, routes its gradients,
resumes bit for bit, compiles whole, runs in bfloat16, and says in `hybridgen show` what a person needs to know.

The recipes stand in `tests/shelf/`, a module an area: `RECIPES` (name -> text, or text and data description), `STILL`
(name -> parameters that its formula leaves where they are) and `prepare(folder)`, which writes files that they name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from common import EAGER, FIXTURES, SGD, SPEC, Reads, batch, captured, close, compile_by, everything, hand_over, steps

from hybridgen.data import SampleSpec
from hybridgen.graph import couples_batch
from hybridgen.model import build
from hybridgen.precision import Choices
from hybridgen.recipe import load_recipe
from hybridgen.registry import load_registry
from hybridgen.signature import REQUIRED, constructor, convert
from hybridgen.step import Training
from hybridgen.testing.probe import owed

AREAS = {
    path.stem: importlib.import_module(f"shelf.{path.stem}") for path in sorted((Path(__file__).parent / "shelf").glob("*.py"))
}
CASES: dict[str, tuple[str, SampleSpec]] = {}
STILL: dict[str, set[str]] = {}
for area, module in AREAS.items():
    for name, given in module.RECIPES.items():
        CASES[f"{area}:{name}"] = (given, SPEC) if isinstance(given, str) else given
    for name, names in getattr(module, "STILL", {}).items():
        STILL[f"{area}:{name}"] = set(names)

Make = Callable[..., Training]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shelf")
    for module in AREAS.values():
        getattr(module, "prepare", lambda folder: None)(made)
    return made


@pytest.fixture
def make(folder: Path) -> Make:
    registry = load_registry(extra={"fixtures": FIXTURES})

    def made(case: str, *overrides: str, choices: Choices = EAGER) -> Training:
        text, spec = CASES[case]
        path = folder / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return Training(build(load_recipe(path, overrides, registry=registry), spec), choices)

    return made


def coupled(state: Training) -> bool:
    parts = state.model.parts.values()
    functions = [p for path, p in state.model.wiring.parts.items() if path not in state.model.parts]
    declared = any(
        getattr(p, "couples_batch", False) or getattr(getattr(p, "func", p), "couples_batch", False) for p in functions
    )
    return declared or any(couples_batch(p) for p in parts)


@pytest.mark.parametrize("case", CASES)
def test_it_trains_with_finite_values_and_moves_what_it_should(case: str, make: Make) -> None:
    state = make(case)
    before = {k: v.clone() for k, v in everything(state).items()}
    values = steps(state, 1, 3)
    wrong = {name: float(value) for name, value in values.items() if not torch.isfinite(value)}
    assert not wrong
    after = everything(state)
    trainable = [f"{p}/{k}" for p, m in state.model.parts.items() for k, v in m.named_parameters() if v.requires_grad]
    still = {name for name in trainable if torch.equal(before[name], after[name])}
    assert still == STILL.get(case, set())


@pytest.mark.parametrize("case", CASES)
def test_its_gradients_go_where_it_declares_and_are_those_of_isolated_terms(case: str, make: Make) -> None:
    state = make(case)
    expected = owed(state, batch(spec=state.model.spec))
    got = captured(state)
    trained = {part for term in state.model.terms for part in term.trains}
    assert {name.partition("/")[0] for name in got} <= trained
    if "spectral_norm = true" in CASES[case][0]:  # each traversal moves the estimate of the largest singular value
        return
    for name in got.keys() | expected.keys():
        one, other = got.get(name), expected.get(name)
        if one is None or other is None:
            whole = one if other is None else other
            assert not whole.any(), f"{name} has a gradient on one side only"
            continue
        scale = max(float(other.abs().max()), 1e-3)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * max(scale, 1.0), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_it_resumes_bit_for_bit_with_whatever_state_it_keeps(case: str, make: Make) -> None:
    whole, first, second = make(case), make(case), make(case)
    steps(whole, 1, 4)
    steps(first, 1, 2)
    hand_over(first, second)
    steps(second, 3, 4)
    close(everything(second), everything(whole), rtol=0, atol=0, equal_nan=True)


# tracing takes seconds a recipe: here one of each sort, the rest with the slow tests
QUICK = (
    "critics:wasserstein-gradient-penalty",
    "critics:relativistic-pairing",
    "critics:lecam",
    "latent_terms:tc-weighted",
    "latent_terms:factor",
    "latent_terms:iwae",
    "latents:vamp-points",
    "latents:vector-quantised",
    "latents:info",
    "nets:conv-conditional-spatial",
    "nets:residual-spatial",
    "providers:instance-noise",
    "reconstruction:path-length",
    "reconstruction:perceptual-program",
    "reconstruction:ssim",
)
assert set(QUICK) <= CASES.keys()


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in CASES])
def test_it_compiles_without_a_graph_break_and_agrees_with_eager_code(case: str, make: Make) -> None:
    eager, fast = make(case, *SGD, "optim.lr=0.01"), make(case, *SGD, "optim.lr=0.01")
    backend = "aot_eager" if case in QUICK else "eager"  # a break is dynamo's to find; what follows it takes as long again
    compile_by(fast, backend)
    for step in (1, 2):
        one, other = (steps(state, step, step) for state in (eager, fast))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    close(everything(fast), everything(eager), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_it_runs_in_bfloat16_with_losses_in_float32_and_reads_nothing_from_the_device(case: str, make: Make) -> None:
    state = make(case, choices=Choices("cpu", "bf16", False, ()))
    with Reads() as reads:
        values = steps(state, 1, 1)
    assert reads.count == 0
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in values.values())


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_are_one_batch_unless_it_says_that_it_couples_samples(case: str, make: Make) -> None:
    whole = make(case, *SGD, "optim.lr=0.01")
    if "spectral_norm = true" in CASES[case][0]:
        pytest.skip("each traversal moves the estimate of the largest singular value, and micro-batches are more of them")
    if coupled(whole):
        pytest.skip("a part or term of it declares that it couples the samples of a batch")
    pieces = make(case, *SGD, "optim.lr=0.01", "train.accumulate=4")
    for state in (whole, pieces):
        steps(state, 1, 2)
    close(everything(whole), everything(pieces), rtol=1e-3, atol=1e-5)


# -- the shelf as a whole ----------------------------------------------------------------------------------------------

SHIPPED = [c for c in load_registry().components() if c.distribution == "hybridgen"]
TAUGHT = ("loss", "latent", "encoder", "decoder", "discriminator", "provider")


def test_each_component_is_at_work_in_a_small_recipe(folder: Path) -> None:
    used = set()
    registry = load_registry(extra={"fixtures": FIXTURES})
    for text, _ in CASES.values():
        path = folder / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path, registry=registry)
        used |= {(part.component.kind, part.component.qualified) for part in recipe.parts()}
    assert [c.qualified for c in SHIPPED if c.kind in TAUGHT and (c.kind, c.qualified) not in used] == []


@pytest.mark.parametrize("component", SHIPPED, ids=lambda c: f"{c.kind}-{c.name}")
def test_defaults_are_what_the_type_hints_allow(component: Any) -> None:
    for option in constructor(component.load()).options.values():
        if option.default is not REQUIRED:
            value = list(option.default) if isinstance(option.default, tuple) else option.default
            assert convert(value, option.annotation) == option.default, f"{option.name} = {option.default!r}"


@pytest.mark.parametrize(
    "component", [c for c in SHIPPED if c.kind in (*TAUGHT, "metric", "features")], ids=lambda c: f"{c.kind}-{c.name}"
)
def test_show_says_when_to_use_it_what_is_healthy_and_where_it_comes_from(component: Any) -> None:
    lines = inspect.cleandoc(component.load().__doc__ or "").splitlines()
    for marker in ("When: ", "Healthy: ", "Source: "):
        assert any(line.startswith(marker) for line in lines), f"its docstring has no line that starts with '{marker}'"
