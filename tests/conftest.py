"""Fixtures: recipes written inline, models and trainers built from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from common import EAGER, FIXTURES, SPEC

from hybridgen.data import SampleSpec
from hybridgen.model import build
from hybridgen.precision import Choices
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import Registry, load_registry
from hybridgen.step import Training


def pytest_configure(config: pytest.Config) -> None:
    """With `-n 2` every worker, and every process that its tests start, has one thread: more would share the same cores."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by workers, which start later


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Feature networks that tests train are kept for one session, and never in the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry(extra={"fixtures": FIXTURES})


@pytest.fixture
def recipe(tmp_path: Path, registry: Registry) -> Callable[..., Recipe]:
    """`recipe(text, *overrides)`: a recipe written to a file and loaded."""

    def make(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "test.toml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides, registry=registry)

    return make


@pytest.fixture
def training(recipe: Callable[..., Recipe]) -> Callable[..., Training]:
    """`training(text, *overrides, spec=SPEC)`: a model and what a step moves."""

    def make(text: str, *overrides: str, spec: SampleSpec = SPEC, choices: Choices = EAGER) -> Training:
        return Training(build(recipe(text, *overrides), spec), choices)

    return make


@pytest.fixture(autouse=True)
def _no_compile_leftovers() -> Iterator[None]:
    yield
    torch._dynamo.reset()
