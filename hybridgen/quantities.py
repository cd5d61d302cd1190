"""From names to definitions: what every `forward` of a recipe receives, resolved when the model is built.

`Wiring.key(name, scope)` answers "which quantity does this parameter get?" and records how it is computed; a name that
does not exist here raises `Missing` with the reason. Two readers of one name share one definition, hence one computation.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.data import SampleSpec
from hybridgen.errors import Problem
from hybridgen.graph import Definition, joined
from hybridgen.names import CRITIC_QUANTITIES, FEATURE_QUANTITIES, QUANTITIES
from hybridgen.recipe import Critic, Recipe
from hybridgen.signature import asks

NOISE = ("noise", "noise_z", "uniform")
REAL_ONLY = {
    "x": "a decoder that asks for `x` can't decode prior samples",
    "tokens": "they are those of the real batch, and generated samples have none",
    "mask": "it is that of the real batch, and generated samples have none",
    "factors": "they are those of the real batch, and generated samples have none",
}
PER_FAKE = frozenset({"fake_logits", "fake_features", "judged_fake"})
LEAVES = frozenset({"x", "label", "fake_label", "factors", "tokens", "mask", "step", "progress"})


class Missing(Exception):  # noqa: N818  (an answer, turned into a Problem where the asker is known)
    """A quantity that does not exist in this recipe; the message says why.

    path: where to mend it, if that is not where it was asked for; ambiguous: it exists, but more than once.
    """

    def __init__(self, message: str, *, path: str = "", ambiguous: bool = False) -> None:
        super().__init__(message)
        self.path = path
        self.ambiguous = ambiguous


@dataclass(frozen=True)
class Scope:
    """Who asks, for which discriminator and which of its generated batches, and through which features (metrics only)."""

    asker: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    critic: str = ""
    fake: int = 0
    features: str = ""


@dataclass(frozen=True)
class Noise:
    """A leaf that the trainer draws each step: `kind` "normal" or "uniform", `shape` without the batch axis."""

    kind: str
    shape: tuple[int, ...]


class Wiring:
    """The definitions of a recipe's quantities as they are asked for."""

    def __init__(self, recipe: Recipe, spec: SampleSpec, parts: Mapping[str, nn.Module | Callable[..., Any]]) -> None:
        self.recipe = recipe
        self.spec = spec
        self.parts = parts
        self.definitions: dict[str, Definition] = {}
        self.noise: dict[str, Noise] = {}
        self._offered = _offered(parts)
        self._open: list[str] = []
        self._asking = False
        self._standard: dict[str, Callable[[], Definition]] = {
            "code": self._code,
            "posterior": partial(self._posterior, "posterior", "code"),
            "z": partial(self._sampled, "z", "posterior"),
            "prior": self._prior,
            "z_prior": partial(self._sampled, "z_prior", "prior"),
            "recon_raw": partial(self._decoded, "recon_raw", "z"),
            "fake_raw": partial(self._decoded, "fake_raw", "z_prior"),
            "recon": partial(self._activated, "recon"),
            "fake": partial(self._activated, "fake"),
            "fake_code": self._fake_code,
            "fake_posterior": partial(self._posterior, "fake_posterior", "fake_code"),
            "fake_z": partial(self._sampled, "fake_z", "fake_posterior"),
            "fake_recon_raw": partial(self._decoded, "fake_recon_raw", "fake_z"),
            "fake_recon": partial(self._activated, "fake_recon"),
            "decode": partial(self._view, "decode", "decoder", "z"),
            "encode": partial(self._view, "encode", "encoder", "x"),
            "decoder_weights": partial(self._weights, "decoder_weights", "decoder"),
            "encoder_weights": partial(self._weights, "encoder_weights", "encoder"),
        }

    # -- one name ------------------------------------------------------------------------------------------------

    def key(self, name: str, scope: Scope) -> str:
        """The key of the quantity that a parameter called `name` receives. Raises Missing with the reason."""
        if name in scope.inputs:
            return self.key(scope.inputs[name], replace(scope, inputs={}))
        if name in LEAVES:
            if name.endswith("label") and not self.spec.classes:
                raise Missing("the data has no labels")
            if name == "factors" and not self.spec.factors:
                raise Missing("the data state no factors of variation")
            if name in ("tokens", "mask") and self.spec.kind != "tokens":
                raise Missing(f"the data are no tokens (their kind is '{self.spec.kind}')")
            return name
        if name in NOISE:
            return self._noise(name, scope)
        if name in CRITIC_QUANTITIES:
            return self._of_critic(name, scope)
        if name in FEATURE_QUANTITIES:
            return self._of_features(name, scope)
        if name in self._standard:
            return self._define(name, self._standard[name])
        if name in self.recipe.quantities:
            return self._provided(name, scope)
        if name in self._offered:
            return self._define(name, partial(self._offered_definition, name, scope))
        raise Missing(self._unknown(name))

    def arguments(
        self, function: Callable[..., Any], scope: Scope, given: Mapping[str, str] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """What each parameter of a method receives; one with a default is left out where its name does not exist.

        given: parameter -> key, for what the call site binds itself.
        """
        found = []
        for ask in asks(function):
            if given and ask.name in given:
                found.append((ask.name, given[ask.name]))
                continue
            try:
                found.append((ask.name, self.drawn(function, ask.name, scope) or self.key(ask.name, scope)))
            except Missing as missing:
                if missing.path:
                    raise
                if ask.required:
                    raise Missing(f"asks for `{ask.name}`: {missing}", ambiguous=missing.ambiguous) from None
        return tuple(found)

    def joint_arguments(self, function: Callable[..., Any], scope: Scope) -> tuple[tuple[str, str], ...]:
        """The same where a method sees all generated batches of its discriminator at once, laid end to end."""
        count = self.times(function, scope.inputs, scope.critic)
        found = []
        for column in zip(*(self.arguments(function, replace(scope, fake=i)) for i in range(count)), strict=True):
            name, keys = column[0][0], [key for _, key in column]
            found.append((name, keys[0] if len(set(keys)) == 1 else self._laid_out(keys)))
        return tuple(found)

    def _laid_out(self, keys: list[str]) -> str:
        key = " + ".join(keys)
        arguments = tuple((str(i), one) for i, one in enumerate(keys))
        return self._define(key, lambda: Definition(key, arguments, function=_end_to_end, local=True))

    def drawn(self, function: Callable[..., Any], name: str, scope: Scope) -> str | None:
        """The key of noise whose kind and shape the asking part states itself, in its attribute `draws`."""
        draws = getattr(getattr(function, "__self__", None), "draws", {})
        if name not in draws or name in scope.inputs:
            return None
        kind, shape = draws[name]
        if kind not in ("normal", "uniform"):
            raise Missing(f'draws `{name}` of the kind {kind!r}; there are "normal" and "uniform"')
        key = f"{name}@{scope.asker}"
        self.noise[key] = Noise(kind, tuple(shape))
        return key

    def problem(self, path: str, what: str, missing: Missing) -> Problem:
        """A Missing where the asker is known."""
        if missing.path:
            return Problem(str(missing), self.recipe.where(missing.path), missing.path)
        return Problem(f"{what} {missing}", self.recipe.where(path), path)

    def names(self) -> list[str]:
        """Every name that exists in this recipe, for messages and for `check`."""
        known = [*QUANTITIES, *self.recipe.quantities, *self._offered]
        return [name for name in known if self._exists(name)]

    def times(self, function: Callable[..., Any], inputs: Mapping[str, str], critic: str) -> int:
        """How often a method is called: once for each generated batch of its discriminator, if it asks for one (directly or
        through providers), else once."""
        return len(self.recipe.critics[critic].fake) if critic and self._scoped(function, inputs) & PER_FAKE else 1

    def _exists(self, name: str) -> bool:
        before, noise = dict(self.definitions), dict(self.noise)
        self._asking = True
        try:
            critics = self.recipe.critics
            self.key(name, Scope("", critic=next(iter(critics), "")))
        except Missing:
            return False
        finally:
            # restored in place, for a model holds these
            self.definitions.clear()
            self.definitions.update(before)
            self.noise.clear()
            self.noise.update(noise)
            self._asking = False
        return True

    def _unknown(self, name: str) -> str:
        if self._asking:  # a list of what exists is being made: no list within the list
            return "there is no quantity of that name"
        names = self.names()
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean `{close[0]}`? " if close else ""
        return f"there is no quantity of that name; {guess}here exist: {', '.join(names)}"

    def _define(self, key: str, make: Callable[[], Definition]) -> str:
        if key in self._open:
            raise Missing(f"it depends on itself ({' -> '.join([*self._open[self._open.index(key) :], key])})")
        if key not in self.definitions:
            self._open.append(key)
            try:
                definition = make()
            finally:
                self._open.pop()
            self.definitions[key] = definition
        return key

    # -- latents, networks -----------------------------------------------------------------------------------------

    def _part(self, path: str, why: str = "") -> nn.Module:
        part = self.parts.get(path)
        if not isinstance(part, nn.Module):
            raise Missing(f"there is no [{path}] in this recipe{why}")
        return part

    def _prior_method(self) -> Callable[..., Any]:
        latent = self._part("latent")
        prior = getattr(latent, "prior", None)
        if prior is None or (not asks(prior) and prior() is None):
            used = self.recipe.latent.component.name if self.recipe.latent else ""
            raise Missing(f"latent '{used}' has no prior to sample from")
        return prior

    def _network(self, key: str, path: str, bound: Mapping[str, str], forbidden: Mapping[str, str]) -> Definition:
        """A call of an encoder or decoder: its roles bound to quantities, the rest asked for by name."""
        module = self._part(path)
        inputs = {**bound, **self.recipe.inputs_of(path), **(bound if key.startswith("fake") else {})}
        absent = set()
        for ask in asks(module.forward):
            if ask.name in forbidden and ask.name not in inputs:
                if ask.required:
                    raise Missing(forbidden[ask.name])
                absent.add(ask.name)
        return Definition(key, self._roles(path, module, Scope(key, inputs), leave=absent), path, network=True)

    def _roles(
        self,
        path: str,
        module: nn.Module,
        scope: Scope,
        *,
        given: Mapping[str, str] | None = None,
        leave: Container[str] = (),
    ) -> tuple[tuple[str, str], ...]:
        """What each role of a network receives: what is `given`, else what it asks for by name; some are left out."""
        arguments = []
        for ask in asks(module.forward):
            if ask.name in leave:
                continue
            if given and ask.name in given:
                arguments.append((ask.name, given[ask.name]))
                continue
            try:
                arguments.append((ask.name, self.drawn(module.forward, ask.name, scope) or self.key(ask.name, scope)))
            except Missing as missing:
                if ask.required:
                    raise Missing(f"[{path}] asks for `{ask.name}`: {missing}") from None
        return tuple(arguments)

    def _code(self) -> Definition:
        self._part("encoder")
        return self._network("code", "encoder", {}, {})

    def _fake_code(self) -> Definition:
        self._part("encoder")
        self.key("fake", Scope("encoder"))
        without = {name: why for name, why in REAL_ONLY.items() if name != "x"}
        return self._network("fake_code", "encoder", {"x": "fake", "label": "fake_label"}, without)

    def _posterior(self, key: str, code: str) -> Definition:
        self._part("encoder", ", hence no posterior")
        method = _method(self._part("latent"), "posterior")
        return Definition(key, self.arguments(method, Scope("latent", {"code": code})), "latent", "posterior")

    def _prior(self) -> Definition:
        return Definition("prior", self.arguments(self._prior_method(), Scope("latent")), "latent", "prior")

    def _sampled(self, key: str, source: str) -> Definition:
        # the batch size of the noise is that of x, so samples of the prior come in the same number
        drawn_from = self.key(source, Scope("latent"))
        return Definition(key, (("source", drawn_from), ("noise", self._latent_noise(key))), function=_sample)

    def _latent_noise(self, purpose: str) -> str:
        latent = self._part("latent")
        shape = tuple(getattr(latent, "noise_shape", None) or latent.z_shape)  # type: ignore[arg-type]
        self.noise[f"noise@{purpose}"] = Noise("normal", shape)
        return f"noise@{purpose}"

    def _decoded(self, key: str, z: str) -> Definition:
        self._part("decoder")
        self.key(z, Scope("decoder"))
        if key == "recon_raw":
            return self._network(key, "decoder", {"z": z}, {})
        bound = {"z": z, "label": "fake_label"}
        return self._network(key, "decoder", bound, REAL_ONLY)

    def _activated(self, name: str) -> Definition:
        raw = self.key(f"{name}_raw", Scope("decoder"))
        return Definition(name, (("raw", raw),), function=partial(activate, kind=self.spec.activation))

    def _view(self, key: str, path: str, role: str) -> Definition:
        roles = self._roles(path, self._part(path), Scope(key, self.recipe.inputs_of(path)), leave=(role,))
        return Definition(key, roles, path, view=True, local=True)

    def _weights(self, key: str, path: str) -> Definition:
        self._part(path)
        return Definition(key, (), path, weights=True, local=True)

    # -- noise, providers, quantities that components offer --------------------------------------------------------

    def _noise(self, name: str, scope: Scope) -> str:
        shape: tuple[int, ...] = ()
        if name == "noise":
            shape = self.spec.shape
        elif name == "noise_z":
            shape = tuple(self._part("latent").z_shape)  # type: ignore[arg-type]
        key = f"{name}@{scope.asker}"
        self.noise[key] = Noise("uniform" if name == "uniform" else "normal", shape)
        return key

    def _provided(self, name: str, scope: Scope) -> str:
        spec = self.recipe.quantities[name]
        path = f"quantity.{name}"
        part = self.parts[path]
        function = part.forward if isinstance(part, nn.Module) else part
        inner = replace(scope, asker=path, inputs=spec.inputs)
        scoped = self._scoped(function, spec.inputs)
        key = name
        if scoped:
            key = f"{name}@{scope.critic}" + (f".{scope.fake}" if scoped & PER_FAKE else "")

        def make() -> Definition:
            arguments = self.arguments(function, inner)
            if isinstance(part, nn.Module):
                return Definition(key, arguments, path)
            return Definition(key, arguments, function=part, local=True)

        return self._define(key, make)

    def _scoped(self, function: Callable[..., Any], inputs: Mapping[str, str]) -> frozenset[str]:
        """The discriminator's quantities that a method asks for, directly or through providers."""
        found: set[str] = set()
        stack, seen = [(function, inputs)], set()
        while stack:
            method, bound = stack.pop()
            for ask in asks(method):
                name = bound.get(ask.name, ask.name)
                if name in CRITIC_QUANTITIES:
                    found.add(name)
                elif name in self.recipe.quantities and name not in seen:
                    seen.add(name)
                    part = self.parts[f"quantity.{name}"]
                    inner = part.forward if isinstance(part, nn.Module) else part
                    stack.append((inner, self.recipe.quantities[name].inputs))
        return frozenset(found)

    def _offered_definition(self, name: str, scope: Scope) -> Definition:
        owners = self._offered[name]
        if len(owners) > 1:
            raise Missing(f"several parts offer `{name}`: {', '.join(owners)}")
        path = owners[0]
        critic = self.critic_of(path)
        method = getattr(self.parts[path], name)
        return Definition(name, self.arguments(method, Scope(path, critic=critic)), path, name)

    def critic_of(self, path: str) -> str:
        """The discriminator that a part speaks of: a loss's, a discriminator's (or its augmentation's) own, or the only one."""
        kind, _, name = path.partition(".")
        return name.partition(".")[0] if kind == "discriminator" else self.loss_critic(name if kind == "loss" else "")

    def loss_critic(self, name: str) -> str:
        """The discriminator that a loss speaks of: the one it names, or the only one."""
        named = self.recipe.losses[name].discriminator if name in self.recipe.losses else None
        if named:
            return named
        return next(iter(self.recipe.critics)) if len(self.recipe.critics) == 1 else ""

    # -- features ----------------------------------------------------------------------------------------------------

    def _of_features(self, name: str, scope: Scope) -> str:
        """What a metric sees of a sample through its feature network, which stands beside the model's own parts."""
        if not scope.features:
            raise Missing("it is what metrics see through a feature network; it exists for metrics only")
        path = f"features.{scope.features}"
        if name == "embed":
            key = f"{path}.embed"
            return self._define(key, lambda: Definition(key, (), path, view=True, local=True))
        batch, _, kind = name.partition("_")
        seen = self.key({"real": "x"}.get(batch, batch), Scope(path))
        site = f"{path}.{batch}"
        self._define(site, lambda: Definition(site, (("x", seen),), path))
        pick = _embedding if kind == "embedding" else _probabilities
        return self._define(f"{site}.{kind}", lambda: Definition(f"{site}.{kind}", (("seen", site),), function=pick))

    # -- discriminators --------------------------------------------------------------------------------------------

    def _of_critic(self, name: str, scope: Scope) -> str:
        if not self.recipe.critics:
            raise Missing("there is no [discriminator] in this recipe")
        if not scope.critic:
            named = ", ".join(f'"{critic}"' for critic in self.recipe.critics)
            raise Missing(f"there are several discriminators; write `discriminator = ` one of {named}", ambiguous=True)
        critic = self.recipe.critics[scope.critic]
        if name == "critic":
            return self._critic_view(critic)
        if name == "critic_weights":
            key = f"{critic.path}.weights"
            return self._define(key, partial(self._weights, key, critic.path))
        which = {"real": "real", "fake": f"fake.{scope.fake}", "recon": self._recon_batch(critic)}
        if name.startswith("judged_"):
            return self._judged_whole(critic, which[name.removeprefix("judged_")])
        batch, _, kind = name.partition("_")
        site = self._judgement(critic, which[batch])
        pick = _logits if kind == "logits" else partial(_features, critic=critic.path)
        return self._define(f"{site}.{kind}", lambda: Definition(f"{site}.{kind}", (("judgement", site),), function=pick))

    def _recon_batch(self, critic: Critic) -> str:
        """Which of the judged batches is the reconstruction; it is judged for its features alone where none is."""
        for index, sample in enumerate(critic.fake):
            if list(sample.values()) == ["recon"]:
                return f"fake.{index}"
        return "recon"

    def _sample(self, critic: Critic, batch: str) -> dict[str, str]:
        if batch == "real":
            return dict(critic.real)
        if batch == "recon":
            return dict.fromkeys(list(critic.real)[:1], "recon")
        return dict(critic.fake[int(batch.removeprefix("fake."))])

    def judged(self, critic: Critic, batch: str) -> dict[str, str]:
        """Role -> key of what a discriminator sees of one judged batch, after its augmentation."""
        found = {}
        for role, quantity in self._sample(critic, batch).items():
            try:
                key = self.key(quantity, Scope(critic.path, critic=critic.name))
            except Missing as missing:
                where = missing.path or f"{critic.path}.{batch.partition('.')[0]}"
                raise Missing(f"discriminator '{critic.name}' judges `{quantity}`: {missing}", path=where) from None
            augmented = role == "x" and critic.augment is not None and critic.augment.path in self.parts
            found[role] = self._augmented(critic, batch, role, key) if augmented else key
        return found

    def _augmented(self, critic: Critic, batch: str, role: str, key: str) -> str:
        path = f"{critic.path}.augment"
        part = self.parts[path]
        function = part.forward if isinstance(part, nn.Module) else part
        name = f"{critic.path}.{batch}.augmented"

        def make() -> Definition:
            # each batch has noise of its own; the asker's name is what tells the streams apart
            arguments = self.arguments(function, Scope(name, critic=critic.name), {role: key})
            if isinstance(part, nn.Module):
                return Definition(name, arguments, path)
            return Definition(name, arguments, function=part, local=True)

        return self._define(name, make)

    def _judgement(self, critic: Critic, batch: str) -> str:
        """The key of one call of the discriminator: logits and features of one judged batch."""
        site = f"{critic.path}.{batch}"

        def make() -> Definition:
            module = self._part(critic.path)
            judged = self.judged(critic, batch)
            return Definition(site, self._critic_arguments(critic, module, judged, batch), critic.path, network=True)

        return self._define(site, make)

    def _critic_arguments(
        self, critic: Critic, module: nn.Module, judged: Mapping[str, str], batch: str = "real"
    ) -> tuple[tuple[str, str], ...]:
        wanted = asks(module.forward)
        for role in judged:
            if role not in {ask.name for ask in wanted}:
                roles = ", ".join(ask.name for ask in wanted)
                what = f"judges a sample with the role `{role}`, but this network asks for: {roles}"
                raise Missing(f"discriminator '{critic.name}' {what}", path=critic.path)
        from_prior = any(self._from_prior(key) for key in judged.values())
        inputs = {"label": "fake_label"} if from_prior else {}
        absent = set()
        for ask in wanted:
            if batch != "real" and ask.name in ("tokens", "mask") and ask.name not in judged:
                if ask.required:
                    raise Missing(f"[{critic.path}] asks for `{ask.name}`: {REAL_ONLY[ask.name]}", path=critic.path)
                absent.add(ask.name)
        return self._roles(critic.path, module, Scope(critic.path, {**inputs, **critic.inputs}), given=judged, leave=absent)

    def _from_prior(self, key: str) -> bool:
        if key == "z_prior":
            return True
        definition = self.definitions.get(key)
        return definition is not None and any(self._from_prior(k) for k in definition.inputs)

    def _judged_whole(self, critic: Critic, batch: str) -> str:
        """What was judged: the tensor, or role -> tensor where the sample is a joint one."""
        judged = self.judged(critic, batch)
        if len(judged) == 1:
            return next(iter(judged.values()))
        key = f"{critic.path}.{batch}.judged"
        return self._define(key, lambda: Definition(key, tuple(judged.items()), function=dict, local=True))

    def _critic_view(self, critic: Critic) -> str:
        module = self._part(critic.path)
        judged = self.judged(critic, "real")
        others = tuple(pair for pair in self._critic_arguments(critic, module, judged) if pair[0] not in judged)
        key = f"{critic.path}.critic"
        return self._define(key, lambda: Definition(key, others, critic.path, view=True, local=True))


def _method(part: nn.Module, name: str) -> Callable[..., Any]:
    return getattr(part, name)


def activate(raw: Tensor, *, kind: str) -> Tensor:
    """From a decoder's raw values to model space: tanh for images, softmax for tokens, nothing for real vectors."""
    if kind == "softmax":
        return raw.softmax(-1)
    return torch.tanh(raw) if kind == "tanh" else raw


def _end_to_end(**pieces: Any) -> Any:
    return joined(list(pieces.values()))


def _sample(source: Any, noise: Tensor) -> Tensor:
    return source.sample(noise)


def _logits(judgement: Any) -> Tensor:
    return judgement[0] if isinstance(judgement, (tuple, list)) else judgement


def _features(judgement: Any, *, critic: str) -> list[Tensor]:
    if not isinstance(judgement, (tuple, list)) or len(judgement) < 2:
        raise TypeError(f"[{critic}] returns logits only; its features are asked for: return (logits, [features])")
    return list(judgement[1])


def _embedding(seen: tuple[Tensor, Tensor | None]) -> Tensor:
    if not isinstance(seen, (tuple, list)) or len(seen) != 2:
        raise TypeError(f"features return (embedding, logits or None), these returned {type(seen).__name__}")
    return seen[0].float()


def _probabilities(seen: tuple[Tensor, Tensor | None]) -> Tensor:
    if seen[1] is None:
        raise TypeError("these features return no logits, so they have no class probabilities")
    return seen[1].float().softmax(-1)


def _offered(parts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of quantities that components list in their `quantities` attribute -> the parts that offer them."""
    found: dict[str, list[str]] = {}
    for path, part in parts.items():
        for name in getattr(part, "quantities", ()):
            found.setdefault(name, []).append(path)
    return found
