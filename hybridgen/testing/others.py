"""Checks of data, metrics, features, reporters, latents' distributions, plugins and the recipes that they ship."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridgen import randomness
from hybridgen.data import Arrays, SampleSpec, open_data
from hybridgen.errors import HybridgenError, RecipeError, Unmeasurable
from hybridgen.evaluation import prepare
from hybridgen.model import build, construct
from hybridgen.quantities import Scope
from hybridgen.recipe import Data, load_recipe, resolved_toml
from hybridgen.registry import HEAVY, Plugin, Registry
from hybridgen.step import Training
from hybridgen.testing.probe import batch, evaluated, leaves
from hybridgen.testing.subject import EAGER, Subject, fault, over_batch, recipe_of, skip, trying

# -- plugins -------------------------------------------------------------------------------------------------------------

QUICK = 1.0
"""Seconds of computing that a manifest may take beyond what hybridgen's own import takes."""

PROBE = """
import sys, time
import hybridgen, pydantic, annotated_types
before = set(sys.modules)
began = time.process_time()
__import__(sys.argv[1])
print(time.process_time() - began, *[name for name in sys.argv[2:] if name in sys.modules and name not in before])
"""


def active(plugin: Plugin) -> None:
    """The plugin loads: its manifest is imported, speaks this interface, and its hooks are hooks.

    Why: a plugin that fails is listed with its cause, and recipes that need it stop.
    Mend: as the cause says. `name = "package"` below [project.entry-points.hybridgen] in pyproject.toml names the manifest's
    module, no more; after a change there install the package again. `hybridgen show hook` lists the hooks.
    """
    if plugin.state != "active":
        fault(plugin.cause or f"it is {plugin.state}")
    if plugin.problems:
        fault("; ".join(plugin.problems))
    if not plugin.components and not plugin.recipes and plugin.add_commands is None:
        fault("it registers nothing")


def light(plugin: Plugin) -> None:
    """The manifest imports neither torch nor numpy, and takes less than a second.

    Why: every command imports every manifest, `hybridgen --help` included.
    Mend: register references, "package.module:Attribute", and import torch in the modules that they name.
    """
    module = plugin.module.partition(":")[0]
    if not plugin.distribution:
        skip("it is no installed package")
    if plugin.state != "active":
        skip("`active` failed")
    done = subprocess.run([sys.executable, "-P", "-c", PROBE, module, *HEAVY], capture_output=True, text=True, check=False)
    if done.returncode:
        fault(f"importing {module} in a new process fails: {done.stderr.strip().splitlines()[-1]}")
    seconds, *heavy = done.stdout.split()
    if heavy:
        fault(f"importing {module} imports {' and '.join(heavy)}")
    if float(seconds) > QUICK:
        fault(f"importing {module} takes {float(seconds):.1f} s of computing")


def recipe(registry: Registry, path: Path) -> None:
    """A recipe that the plugin ships loads, fits together, opens with a comment, and resolves to itself.

    Why: it is what people run first, and what the resolved copy in each run folder is made of.
    Mend: `hybridgen check RECIPE` shows each problem with its line.
    """
    try:
        loaded = load_recipe(path, registry=registry)
    except HybridgenError as error:
        if "is required" in str(error):
            skip(f"it leaves something to its user: {error}")
        fault(str(error))
    if not path.read_text(encoding="utf-8").lstrip().startswith("#"):
        fault("it opens with no comment; say in its first lines what it is for and what to expect")
    with trying("making its data"):
        source = loaded.data.component.load()(**loaded.data.options)
    try:
        spec = source.describe()
    except (HybridgenError, OSError) as error:
        skip(f"its data are not here: {error}")
    try:
        build(loaded, spec)
    except HybridgenError as error:
        fault(str(error))
    resolved = resolved_toml(loaded, origins=False)
    again = resolved_toml(recipe_of(resolved, registry), origins=False)
    if tomllib.loads(again) != tomllib.loads(resolved):
        fault("resolved, it does not resolve to itself")


# -- data ----------------------------------------------------------------------------------------------------------------


def _source(subject: Subject) -> Any:
    options = subject.ready()
    with trying("making it"):
        return subject.loaded(**options)


def described(subject: Subject) -> None:
    """`describe()` says what `load()` brings: shape, count, classes, and values within `low` and `high`.

    Why: the model is built from the description before anything is read.
    Mend: correct whichever is wrong; `hybridgen.data.SampleSpec` documents each field.
    """
    source = _source(subject)
    with trying("`describe`"):
        spec = source.describe()
    if not isinstance(spec, SampleSpec):
        fault(f"`describe` returns {type(spec).__name__}, expected hybridgen.data.SampleSpec")
    with trying("`load`"):
        splits = dict(source.load())
    if "train" not in splits:
        fault(f"`load` brings {', '.join(splits) or 'nothing'}; expected 'train'")
    if spec.split != ("validation" in splits):
        fault(f"the description says split = {spec.split}, and `load` brings {', '.join(splits)}")
    if len(splits["train"]) != spec.count:
        fault(f"the description counts {spec.count} training examples, `load` brings {len(splits['train'])}")
    for name, arrays in splits.items():
        _arrays(arrays, spec, name)


def _arrays(arrays: Arrays, spec: SampleSpec, name: str) -> None:
    if tuple(arrays.x.shape[1:]) != spec.stored_shape:
        fault(f"{name} examples have the shape {tuple(arrays.x.shape[1:])}, described as {spec.stored_shape}")
    x = arrays.tensor()
    if spec.kind != "tokens":
        values = x.float()
        if not bool(torch.isfinite(values).all()):
            fault(f"{name} examples hold NaN or infinite values")
        bounded = spec.levels is not None or spec.activation == "tanh"
        if bounded and (float(values.min()) < spec.low or float(values.max()) > spec.high):
            low, high = float(values.min()), float(values.max())
            fault(f"{name} values lie in {low:g} to {high:g}, described as {spec.low:g} to {spec.high:g}")
    for what, tensor, named in (("labels", arrays.label, spec.classes), ("factors", arrays.factors, spec.factors)):
        if bool(named) != (tensor is not None):
            fault(f"{what} are {'described and not loaded' if named else 'loaded and not described'}")
        if tensor is None:
            continue
        if len(tensor) != len(arrays) or tensor.dtype != torch.long:
            fault(f"{len(tensor)} {what} of {tensor.dtype} for {len(arrays)} {name} examples; expected as many int64")
        if what == "labels" and (int(tensor.min()) < 0 or int(tensor.max()) >= len(named)):
            fault(f"{name} labels lie in {int(tensor.min())} to {int(tensor.max())}, with {len(named)} classes described")


def reproducible(subject: Subject) -> None:
    """Two loads bring the same examples in the same order, and the same split.

    Why: a run draws its order from the seed; data that come otherwise each time resume into another run.
    Mend: sort what a file system lists, and draw with a generator of a fixed seed.
    """
    options = Data(subject.component, {}, batch_size=2, validation=0.25, split_seed=0, flip=False)
    before = torch.random.get_rng_state()
    with trying("loading it"):
        one, other = (open_data(_source(subject), options) for _ in range(2))
    for name in one:
        if not torch.equal(one[name].tensor(), other[name].tensor()):
            fault(f"two loads differ in their {name} examples")
        for mine, its in ((one[name].label, other[name].label), (one[name].factors, other[name].factors)):
            if mine is not None and its is not None and not torch.equal(mine, its):
                fault(f"two loads differ in the labels or factors of their {name} examples")
    if not torch.equal(before, torch.random.get_rng_state()):
        fault("loading draws from torch's default random state")


# -- metrics and features ------------------------------------------------------------------------------------------------

Numbers = Mapping[str, float]


def _measured(subject: Subject, order: list[int], sizes: list[int]) -> Numbers | str:
    """A metric over one set of examples and samples in an order and in batches of some sizes, or why it has no value."""
    case = subject.case()
    model = case.model()
    evaluation = prepare(model)
    measure = next(m for m in evaluation.measures if f"metric.{m.name}" == case.path)
    env = _all_leaves(Training(model, EAGER), batch(len(order), spec=case.spec))
    model.parts.update({f"features.{name}": network for name, network in evaluation.networks.items()})
    for part in model.parts.values():
        part.eval()
    metric = measure.metric
    with trying("`reset`"):
        metric.reset()
    start = 0
    for size in sizes:
        index = torch.tensor(order[start : start + size])
        own = over_batch(env, len(order), partial(torch.index_select, dim=0, index=index))
        start += size
        for method, wanted in (("update", measure.update), ("generated", (measure.generated,))):
            for arguments in (one for one in wanted if one is not None):
                with torch.no_grad():
                    known, _ = evaluated(model, own, [key for _, key in arguments])
                given = {name: known[key] for name, key in arguments}
                with trying(f"`{method}`"):
                    getattr(metric, method)(**given)
    try:
        with trying("`compute`"), torch.no_grad():
            value = metric.compute()
    except Unmeasurable as reason:
        return str(reason)
    flat = value if isinstance(value, Mapping) else {"": value}
    return {key: float(number) for key, number in flat.items()}


def _all_leaves(state: Training, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a metric may read: a batch, and every noise that is drawn for anyone."""
    env = leaves(state, given)
    size = given["x"].shape[0]
    for key, noise in state.model.noise.items():
        if key not in env:
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal
            env[key] = draw((size, *noise.shape), torch.device("cpu"), 0, "noise", 1, 0, key)
    return env


def stated(subject: Subject) -> None:
    """The metric states its `unit` and whether `higher_is_better`, and has `update` or `generated`, `compute` and `reset`.

    Why: a number without a unit and a direction can't be shown, compared, or name the best checkpoint.
    Mend: class attributes; a dictionary where `compute` gives several values; None where no direction is better.
    """
    lacking = [name for name in ("unit", "higher_is_better") if not hasattr(subject.loaded, name)]
    lacking += [f"{name}()" for name in ("compute", "reset") if not callable(getattr(subject.loaded, name, None))]
    if not any(callable(getattr(subject.loaded, name, None)) for name in ("update", "generated")):
        lacking.append("update() or generated()")
    if lacking:
        fault(f"it has no {', '.join(lacking)}")


COUNT = 48


def orderless(subject: Subject) -> None:
    """Neither the size of batches nor the order of examples changes the value; `reset` forgets.

    A metric that asks for the fact `seed` draws subsets or folds by it: of those only the batches are changed.

    Why: a metric is a property of a set; two people with other batch sizes must get one number.
    Mend: sum and count (or keep samples) in `update`, divide in `compute`; a mean of means weighs a short batch wrongly.
    """
    straight = list(range(COUNT))
    turned = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    one = _measured(subject, straight, [16, 16, 16])
    if isinstance(one, str):
        skip(f"it has no value on {COUNT} samples of an untrained model: {one}")
    draws = any(fact.name == "seed" for fact in subject.signature.facts)
    for what, order, sizes in (("batch sizes", straight, [20, 16, 8, 4]), ("order", turned, [16, 16, 16])):
        if draws and what == "order":
            continue
        other = _measured(subject, order, sizes)
        if isinstance(other, str):
            fault(f"with another {what} it has no value: {other}")
        for key, value in one.items():
            if not math.isclose(value, other[key], rel_tol=1e-3, abs_tol=1e-5) and not math.isnan(value):
                name = key or "the value"
                fault(f"another {what} of the same samples gives {other[key]:.6g} for {name} in place of {value:.6g}")


def embeds(subject: Subject) -> None:
    """Features give an embedding `b e` and logits `b k` or None, with k the attribute `classes`, and describe themselves.

    Why: FID and its like are taken from them, and two numbers compare only under one description.
    Mend: see "Features" in plugins/README.md.
    """
    options = subject.ready()
    facts = {"sample_shape": (1, 8, 8), "num_classes": 4, "output_activation": "tanh"}
    try:
        network = construct(subject.component, options, facts, path="features.it", where="")
    except RecipeError as error:
        skip(f"it refuses to be made without more: {error.problems[0].what}")
    if not hasattr(network, "classes") or not callable(getattr(network, "describe", None)):
        fault("it has no attribute `classes`, or no method `describe`")
    if getattr(network, "prepare", None) is not None:
        skip("it makes itself ready (weights, training) before its first use")
    with torch.no_grad(), trying("`forward`"):
        embedding, logits = network.eval()(torch.zeros(3, 1, 8, 8))
    if embedding.ndim != 2 or len(embedding) != 3:
        fault(f"the embedding has the shape {tuple(embedding.shape)}, expected (3, e)")
    if (logits is None) != (not network.classes) or (logits is not None and tuple(logits.shape) != (3, network.classes)):
        fault(f"classes = {network.classes}, and the logits are {None if logits is None else tuple(logits.shape)}")


# -- latents -------------------------------------------------------------------------------------------------------------


def distributions(subject: Subject) -> None:
    """The latent states `code_shape` and `z_shape`; its posterior samples that shape and has a KL of one number a sample.

    Why: encoder, decoder and every term are made for what it states.
    Mend: see "Latents" in plugins/README.md.
    """
    case = subject.case()
    state = case.training()
    latent: Any = state.model.parts["latent"]
    size = 4
    env = leaves(state, batch(size, spec=case.spec))
    known, _ = evaluated(state.model, env, [term.key for term in state.model.terms] + ["z"])
    z = known["z"]
    if tuple(z.shape) != (size, *latent.z_shape):
        fault(f"a sample of the posterior has the shape {tuple(z.shape)}, expected {(size, *latent.z_shape)}")
    posterior: Any = known.get("posterior")
    if "prior" not in state.model.wiring.names() or not hasattr(posterior, "kl"):
        return
    prior = evaluated(state.model, env, [state.model.wiring.key("prior", Scope("latent"))])[0]["prior"]
    if hasattr(prior, "log_prob"):
        with trying("`log_prob` of the prior"):
            density = prior.log_prob(z.detach())
        if tuple(density.shape) != (size,):
            fault(f"`log_prob` gives the shape {tuple(density.shape)}, expected one number in nats for each sample")
    try:
        kl = posterior.kl(prior, z)
    except ValueError as refused:  # a posterior without a density says so
        skip(f"its posterior has no KL: {refused}")
    if tuple(kl.shape) != (size,) or not bool(torch.isfinite(kl).all()):
        fault(f"`kl` gives {kl.shape} with {kl.tolist()}, expected one finite number in nats for each sample")


# -- reporters -----------------------------------------------------------------------------------------------------------

EVENTS: tuple[dict[str, Any], ...] = (
    {
        "event": "start",
        "recipe": "vae-digits",
        "description": "",
        "run": "runs/vae-digits-20261125-120000-ab12",
        "steps": 4,
        "batch_size": 8,
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
        "compile": False,
        "parameters": {"encoder": 10, "decoder": 10},
        "parts": {"encoder": "mlp (nets)", "decoder": "mlp (nets)"},
        "passes": "encoder 1, decoder 1",
        "data": {"use": "digits", "count": 64, "shape": [1, 8, 8], "classes": []},
        "terms": [{"name": "reconstruction", "side": "generator", "trains": ["encoder", "decoder"], "first": 1}],
        "notes": [],
    },
    {"event": "row", "step": 1, "values": {"loss.reconstruction": 0.5, "total.generator": 0.5}, "seconds": 0.1},
    {"event": "samples", "step": 2, "path": "samples/000002.png", "kind": "image"},
    {"event": "evaluation", "step": 2, "values": {"elbo": -1.0}, "refused": {}, "remarks": {}, "protocol": {}},
    {"event": "best", "step": 2, "metric": "elbo", "value": -1.0},
    {"event": "checkpoint", "step": 2, "path": "checkpoints/000002", "best": True, "seconds": 0.1},
    {"event": "health", "step": 3, "code": "data-bound", "message": "a sentence"},
    {"event": "of-a-later-version", "step": 3},
    {"event": "end", "step": 4, "status": "finished", "checkpoint": "checkpoints/000004"},
)
"""A short run as its record tells it."""


def listens(subject: Subject) -> None:
    """The reporter takes every event of a run, those that it doesn't know as well, and changes none.

    Why: events are the run's record; new ones may come with any version.
    Mend: look at `event["event"]` and pass over what you don't use; copy what you change.
    """
    listener = _source(subject)
    folder = tempfile.TemporaryDirectory(prefix="hybridgen-")
    try:
        for one in EVENTS:
            event = {**one, "run": folder.name} if "run" in one else one  # a folder that is there, as a run's is
            given = {**copy.deepcopy(event), "time": 0.0}
            with trying(f"the event '{event['event']}'"):
                listener.event(given)
            if given != {**event, "time": 0.0}:
                fault(f"it changed the event '{event['event']}'")
    finally:
        close = getattr(listener, "close", None)
        if close is not None:
            with trying("`close`"):
                close()
        folder.cleanup()
