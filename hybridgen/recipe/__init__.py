"""Recipes: text in, a frozen, complete, checked `Recipe` out. Starts no torch."""

from hybridgen.recipe.check import load_recipe
from hybridgen.recipe.schedule import Schedule
from hybridgen.recipe.spec import Critic, Data, Loss, Metric, Optim, Origin, Part, Recipe, Report, Train
from hybridgen.recipe.write import copy_recipe, resolved_toml, toml_value

__all__ = [
    "Critic",
    "Data",
    "Loss",
    "Metric",
    "Optim",
    "Origin",
    "Part",
    "Recipe",
    "Report",
    "Schedule",
    "Train",
    "copy_recipe",
    "load_recipe",
    "resolved_toml",
    "toml_value",
]
