"""A trained model in use: sample, encode, decode, reconstruct, interpolate.

Tensors go in and come out in model space (images `b c h w` in [-1, 1]), on the CPU unless a device is asked for. This
module imports neither the step nor the loop: a deployed model carries no trainer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from hybridgen import randomness
from hybridgen.checkpoint import Checkpoint, latest, load_checkpoint
from hybridgen.data import SampleSpec
from hybridgen.errors import Problem, RecipeError, RunError, UnavailableError, UserError
from hybridgen.graph import SCALARS, Env, Graph, nodes
from hybridgen.model import Model, build, load_parts
from hybridgen.notes import noting
from hybridgen.precision import usable_device
from hybridgen.quantities import Missing, Noise, Scope
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import Plugins, Registry, load_registry, registry_with
from hybridgen.run_folder import find_run

CHUNK = 512


class GenerativeModel:
    """What a trained recipe can do. A function that it cannot offer says what would make it possible.

    What is random in training is at its mean here (a denoising encoder sees its input as it is, a posterior gives its
    mean); only `sample` draws.

    parts: the modules to compute with, in eval mode (the averaged ones of a run).
    label_frequencies: how often each class was seen, from which labels are drawn when none are given.
    """

    def __init__(self, model: Model, parts: Mapping[str, nn.Module], label_frequencies: Sequence[float] | None = None) -> None:
        self._model = model
        self._parts = parts
        self._frequencies = list(label_frequencies) if label_frequencies else None
        self.device = next((p.device for m in parts.values() for p in m.parameters()), torch.device("cpu"))

    @property
    def recipe_name(self) -> str:
        return self._model.recipe.name

    @property
    def spec(self) -> SampleSpec:
        """What one example looks like."""
        return self._model.spec

    def sample(self, count: int, *, seed: int = 0, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """`count` new examples, `b ...` in model space: decoder(z), z from the prior.

        label: the class of each, for conditional models; without it classes are drawn as often as the data had them.
        Raises UnavailableError for a model without a prior.
        """
        _positive(count, "sample")
        fake = self._need("fake", "sample")
        z_prior = self._need("z_prior", "sample")
        if label is not None and "fake_label" not in Graph(self._model.wiring.definitions).leaves_of([fake]):
            raise UnavailableError(
                f"this model ({self.recipe_name}) is not conditional: its decoder asks for no `label`, so none can be chosen"
            )
        env = self._noise(fake, count, seed) | self._labels(count, label, seed)
        env[z_prior] = self._run([z_prior], env, ())[z_prior]
        return self._chunked(fake, env, given=[z_prior])

    def encode(self, x: Tensor, *, label: Tensor | None = None) -> Tensor:
        """The posterior's mean for each example, `b d` (or `b d h w`). Raises UnavailableError without an encoder."""
        posterior = self._need("posterior", "encode")
        x = self._checked(x)
        env = self.spec.quantities(x) | self._labels(len(x), label, 0, "label")
        return self._chunked(posterior, env, pick="mean")

    def decode(self, z: Tensor, *, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """Examples for the latents `z`, `b d` -> `b ...` in model space. Raises UnavailableError without a decoder."""
        try:
            name, given = self._key("fake"), "z_prior"
        except Missing:
            name, given = self._need("recon", "decode"), "z"
        shape = tuple(self._model.parts["latent"].z_shape)  # type: ignore[arg-type]
        z = self._shaped(z, shape, "latents").to(self.device)
        labels = self._labels(len(z), label, 0)
        if labels:  # `recon` reads the batch's own labels, `fake` those of generated samples
            labels["label"] = labels["fake_label"]
        return self._chunked(name, {given: z} | labels, given=[given])

    def reconstruct(self, x: Tensor, *, label: Tensor | None = None) -> Tensor:
        """decoder(posterior mean of x), shaped like `x`. Raises UnavailableError without an encoder."""
        recon = self._need("recon", "reconstruct")
        x = self._checked(x)
        z = self.encode(x, label=label)
        return self._chunked(recon, self.spec.quantities(x) | {"z": z} | self._labels(len(x), label, 0, "label"), given=["z"])

    def interpolate(self, a: Tensor, b: Tensor, *, steps: int = 8, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """Examples along the line between the codes of `a` and `b`, both `b ...`: returns `b steps ...`.

        The first and last are the reconstructions of `a` and `b`. label: of each pair, for conditional models; drawn
        once a pair where none is given. Raises UnavailableError without an encoder.
        """
        if a.shape != b.shape:
            raise UserError(f"interpolate wants two batches of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
        if steps < 2:
            raise UserError(f"interpolate wants at least 2 steps, got {steps}")
        classes = self._labels(len(a), label, 0, "label").get("label") if self.spec.classes else None
        start, end = self.encode(a, label=classes), self.encode(b, label=classes)
        way = torch.linspace(0, 1, steps, device=start.device)
        z = rearrange([torch.lerp(start, end, t) for t in way], "s b ... -> (b s) ...")
        along = None if classes is None else classes.repeat_interleave(steps)
        return rearrange(self.decode(z, label=along), "(b s) ... -> b s ...", s=steps)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return self._model.wiring.key(name, Scope("use"))

    def _need(self, name: str, verb: str) -> str:
        try:
            return self._key(name)
        except Missing as missing:
            raise UnavailableError(
                f"this model ({self.recipe_name}) cannot {verb}: {missing}. {_REMEDY.get(verb, '')}".strip()
            ) from None

    def _noise(self, key: str, count: int, seed: int) -> Env:
        made, cpu = {}, torch.device("cpu")
        for leaf, noise in self._leaves(key, ()).items():
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal
            made[leaf] = draw((count, *noise.shape), cpu, seed, "sample", leaf).to(self.device)
        return made

    def _leaves(self, key: str, given: Sequence[str]) -> dict[str, Noise]:
        leaves = Graph(self._model.wiring.definitions).leaves_of([key], given)
        return {leaf: self._model.noise[leaf] for leaf in leaves if leaf in self._model.noise}

    def _labels(self, count: int, label: Any, seed: int, name: str = "fake_label") -> Env:
        classes = len(self.spec.classes)
        if not classes:
            if label is not None:
                raise UnavailableError(f"this model ({self.recipe_name}) knows no labels: its data had none")
            return {}
        if label is None:
            weights = torch.tensor(self._frequencies or [1.0] * classes)
            generator = randomness.generator(torch.device("cpu"), seed, "sample", "label")
            label = torch.multinomial(weights, count, replacement=True, generator=generator)
        label = torch.as_tensor(label, dtype=torch.long)
        label = label.expand(count) if label.ndim == 0 else label
        if len(label) != count or int(label.min()) < 0 or int(label.max()) >= classes:
            raise UserError(f"label wants {count} class indices from 0 to {classes - 1}, or one for all")
        return {name: label.to(self.device)}

    def _checked(self, x: Tensor) -> Tensor:
        return self._shaped(x, tuple(self.spec.shape), "examples in model space").to(self.device)

    def _shaped(self, x: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
        want = f"expected a float tensor of {what}, of shape b {' '.join(str(side) for side in shape)}"
        if not isinstance(x, Tensor):
            raise UserError(f"{want}, got {type(x).__name__}; torch.from_numpy makes a tensor of an array")
        if tuple(x.shape[1:]) != shape or not x.is_floating_point() or not len(x):
            raise UserError(f"{want}, got {x.dtype} of shape {tuple(x.shape)}")
        return x

    @torch.no_grad()
    def _run(self, targets: Sequence[str], env: Env, given: Sequence[str]) -> Env:
        env = dict(env)
        missing = Graph(self._model.wiring.definitions).leaves_of(targets, given) - env.keys() - SCALARS
        if missing:
            names = ", ".join(f"`{name}`" for name in sorted(missing))
            raise UnavailableError(f"this model ({self.recipe_name}) can't do that alone: its networks ask for {names}")
        steps = float(self._model.recipe.train.steps)
        env |= {"step": torch.tensor(steps, device=self.device), "progress": torch.tensor(1.0, device=self.device)}
        with noting(self._model.recipe, self._parts):
            for call in nodes(Graph(self._model.wiring.definitions), targets, self._parts, given=given):
                call.run(env)
        return env

    def _chunked(self, key: str, env: Env, *, given: Sequence[str] = (), pick: str = "") -> Tensor:
        """One quantity for a batch of any size, computed in pieces of bounded memory."""
        size = next(len(value) for value in env.values())
        for leaf, noise in self._leaves(key, given).items():
            if leaf not in env:
                mean = 0.5 if noise.kind == "uniform" else 0.0
                env[leaf] = torch.full((size, *noise.shape), mean, device=self.device)
        pieces = []
        for start in range(0, max(size, 1), CHUNK):
            piece = {name: value[start : start + CHUNK] for name, value in env.items()}
            value = self._run([key], piece, given)[key]
            pieces.append(getattr(value, pick) if pick else value)
        return torch.cat(pieces)


def _positive(count: int, verb: str) -> None:
    if count < 1:
        raise UserError(f"{verb} wants a count of at least 1, got {count}")


_REMEDY = {
    "sample": "Sampling needs a latent with a prior and a decoder that learns from it",
    "encode": 'Add an encoder to the recipe (`[encoder] use = "conv"`) and a loss that trains it',
    "reconstruct": 'Add an encoder to the recipe (`[encoder] use = "conv"`) and a loss that trains it',
    "decode": 'Add a decoder to the recipe (`[decoder] use = "conv"`)',
}


def saved_recipe(folder: Path, registry: Registry | None = None) -> Recipe:
    """The recipe of a run. What is wrong with it now, though it once ran, may be a plugin that is gone: that is said."""
    registry = registry or load_registry()
    try:
        return load_recipe(folder / "recipe.toml", registry=registry)
    except RecipeError as error:
        here = {plugin.name for plugin in registry.plugins if plugin.state == "active"}
        gone = [p for p in _plugins_then(folder) if p["state"] == "active" and p["name"] not in here]
        if not gone:
            raise
        raise RecipeError([*_gone(folder, gone), *error.problems]) from None


def _plugins_then(folder: Path) -> list[dict[str, Any]]:
    """The plugins that a run was made with, as its environment record names them; none where it has no such record."""
    try:
        found: list[dict[str, Any]] = json.loads((folder / "environment.json").read_text(encoding="utf-8")).get("plugins", [])
    except (OSError, ValueError):
        return []
    return found


def _gone(folder: Path, plugins: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """What to do about plugins that a run was made with and that are not here now."""
    installed = [f"'{p['name']}' ({p['distribution']} {p['version']})" for p in plugins if p["distribution"]]
    problems = []
    if installed:
        what = f"this run was made with a plugin that is not here: {', '.join(installed)}"
        problems.append(Problem(what, str(folder), hint="install it again"))
    for p in plugins:
        if "file" in p:
            what, copy = f"this run was made with --plugin {p['file']}", folder / "source" / Path(p["file"]).name
            hint = f'give it again (in Python: plugins="{p["file"]}"); as it was then it is kept in {copy}'
            problems.append(Problem(what, str(folder), hint=hint))
        elif not p["distribution"]:
            what = f'this run was made with plugins=hybridgen.components(name="{p["name"]}", ...)'
            problems.append(Problem(what, str(folder), hint="give it again"))
    return problems


def changed_files(folder: Path, registry: Registry) -> list[str]:
    """A sentence for each plugin's file that is another than when the run was made."""
    then = {p["name"]: p for p in _plugins_then(folder) if "file" in p}
    return [
        f"{plugin.file.path} has changed since this run was made; as it was then it is kept in "
        f"{folder / 'source' / Path(then[plugin.name]['file']).name}"
        for plugin in registry.plugins
        if plugin.file is not None and plugin.name in then and then[plugin.name]["sha256"] != plugin.file.sha256
    ]


def load(
    run: str | Path,
    *,
    device: torch.device | str = "cpu",
    step: int | None = None,
    registry: Registry | None = None,
    plugins: Plugins = (),
) -> GenerativeModel:
    """The model of a run folder (or the name of a run below `runs/`), with its averaged weights.

    step: a checkpoint other than the newest. plugins: what `train` was given. Raises RunError when there is no such run or
    checkpoint, and RecipeError where its plugins are not here.
    """
    folder = find_run(run, trained=True)
    where = usable_device(str(device))
    checkpoint = saved_checkpoint(folder, step)
    model = restored(saved_recipe(folder, registry_with(plugins, registry)), checkpoint, where)
    return GenerativeModel(model, model.parts, checkpoint.metadata.get("label_frequencies"))


def saved_checkpoint(folder: Path, step: int | None = None) -> Checkpoint:
    """A run's newest checkpoint, or that of a step, without its training state. Raises RunError when there is none."""
    found = latest(folder / "checkpoints") if step is None else folder / "checkpoints" / f"step-{step:08d}"
    if found is None or not found.exists():
        kept = sorted(p.name for p in (folder / "checkpoints").glob("step-*"))
        raise RunError(f"{folder} has no checkpoint{f' of step {step}' if step else ''}; it holds: {', '.join(kept) or 'none'}")
    return load_checkpoint(found, device=torch.device("cpu"), training=False)


def restored(recipe: Recipe, checkpoint: Checkpoint, device: torch.device) -> Model:
    """The model of a checkpoint in eval mode, its averaged weights in place of those that were averaged."""
    model = build(recipe, SampleSpec.from_dict(checkpoint.metadata["spec"]))
    load_parts(model.parts, checkpoint.weights | (checkpoint.ema or {}))
    for module in model.parts.values():
        module.to(device).eval().requires_grad_(False)
    return model
