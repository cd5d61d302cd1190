"""Real examples of a recipe or of a run: where they come from, what one looks like, some held-out ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hybridgen.data import SampleSpec, open_data
from hybridgen.model import construct
from hybridgen.notes import noting
from hybridgen.recipe import Recipe
from hybridgen.registry import Plugins, Registry, registry_with
from hybridgen.run_folder import find_run
from hybridgen.use import saved_recipe


def source_of(recipe: Recipe) -> Any:
    """The data component of a recipe. Raises RecipeError for what its constructor refuses."""
    data = recipe.data
    return construct(data.component, data.options, {}, path="data", where=recipe.where("data"))


def describe(recipe: Recipe) -> SampleSpec:
    """What the recipe's data look like, from headers only. Raises DataError."""
    source = source_of(recipe)
    with noting(recipe):
        return source.describe()


def held_out(
    run: str | Path, count: int, *, registry: Registry | None = None, plugins: Plugins = ()
) -> tuple[Tensor, Tensor | None]:
    """The first `count` validation examples of a run's data, `b ...` in model space (training ones where none are), and
    their labels where there are any. plugins: what `train` was given."""
    recipe = saved_recipe(find_run(run), registry_with(plugins, registry))
    source = source_of(recipe)
    with noting(recipe):
        splits = open_data(source, recipe.data)
        spec: SampleSpec = source.describe()
    arrays = splits.get("validation", splits["train"])
    chosen = arrays if len(arrays.x) else splits["train"]
    label = chosen.label[:count] if spec.classes and chosen.label is not None else None
    return spec.to_model(chosen.x[:count]), label
