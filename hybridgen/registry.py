"""Plugins: found through entry points, each loaded for itself, its failure a fact to list and never fatal.

A plugin that fails is an error only for the recipe that needs it. Component references are imported when a recipe uses
them, so listing everything that is installed starts no torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from hybridgen import hookimpl, hookspecs, single_file
from hybridgen.errors import PluginError, Problem, UserError
from hybridgen.names import API, KINDS
from hybridgen.single_file import NAME, PluginFile

if TYPE_CHECKING:
    import click

GROUP = "hybridgen"
DISABLE = "HYBRIDGEN_DISABLE_PLUGINS"
HEAVY = ("torch", "numpy")
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Component:
    """A named thing that a recipe can use; `reference` is "package.module:Attribute", or the object itself.

    origin: where its plugin comes from, in words: "hybridgen-mine 0.1", "my_loss.py".
    """

    kind: str
    name: str
    reference: Any
    plugin: str
    distribution: str
    origin: str = ""

    @property
    def qualified(self) -> str:
        return f"{self.plugin}:{self.name}"

    @property
    def place(self) -> str:
        """Where it is defined: "package.module:Attribute", "my_loss.py:TotalVariation", "__main__:TotalVariation"."""
        if isinstance(self.reference, str):
            return self.reference
        module = getattr(self.reference, "__module__", "")
        if module.startswith(single_file.PREFIX):
            module = Path(sys.modules[module].__file__ or "").name
        return f"{module}:{getattr(self.reference, '__qualname__', repr(self.reference))}"

    def load(self) -> Any:
        """Import the component. Raises PluginError with the cause, whatever the import raised."""
        if not isinstance(self.reference, str):
            return self.reference
        module, _, attribute = self.reference.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind} '{self.name}' of plugin '{self.plugin}' can't be imported from {self.reference}: {_cause(error)}"
            ) from error


@dataclass
class Plugin:
    """An entry point, a file or a manifest at hand, and what became of it: "active", "failed" (see `cause`) or "disabled"."""

    name: str
    distribution: str = ""
    version: str = ""
    module: str = ""
    state: str = "active"
    cause: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    components: list[Component] = field(default_factory=list)
    recipes: dict[str, Path] = field(default_factory=dict)
    add_commands: Callable[..., None] | None = None
    file: PluginFile | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words: "hybridgen-mine 0.1", "my_loss.py"; nothing for a manifest at hand."""
        return str(self.file.path) if self.file else f"{self.distribution} {self.version}".strip()

    def fail(self, cause: str) -> None:
        self.state = "failed"
        self.cause = self.cause or cause


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that a plugin ships."""

    name: str
    path: Path
    plugin: str
    distribution: str


class LookupFailure(PluginError):  # noqa: N818
    """A component that can't be used; `problem` says why and what to write."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Register:
    """What a manifest's `register_components` receives: one method for each kind."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def _add(self, kind: str, name: str, reference: Any) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{kind} name {name!r}: expected lower-case letters, digits and dashes")
        if isinstance(reference, str) and not REFERENCE.fullmatch(reference):
            raise ValueError(f"{kind} '{name}': reference {reference!r} is not of the form 'package.module:Attribute'")
        if not isinstance(reference, (str, type)) and not (kind == "provider" and inspect.isroutine(reference)):
            wanted = "a class or a function" if kind == "provider" else "the class itself"
            raise ValueError(f"{kind} '{name}': expected {wanted}, got {reference!r}")
        if any((c.kind, c.name) == (kind, name) for c in self._plugin.components):
            raise ValueError(f"{kind} '{name}' is registered twice")
        plugin = self._plugin
        plugin.components.append(Component(kind, name, reference, plugin.name, plugin.distribution, plugin.origin))

    def encoder(self, name: str, reference: Any) -> None:
        self._add("encoder", name, reference)

    def decoder(self, name: str, reference: Any) -> None:
        self._add("decoder", name, reference)

    def discriminator(self, name: str, reference: Any) -> None:
        self._add("discriminator", name, reference)

    def loss(self, name: str, reference: Any) -> None:
        self._add("loss", name, reference)

    def latent(self, name: str, reference: Any) -> None:
        self._add("latent", name, reference)

    def data(self, name: str, reference: Any) -> None:
        self._add("data", name, reference)

    def metric(self, name: str, reference: Any) -> None:
        self._add("metric", name, reference)

    def features(self, name: str, reference: Any) -> None:
        self._add("features", name, reference)

    def provider(self, name: str, reference: Any) -> None:
        self._add("provider", name, reference)

    def reporter(self, name: str, reference: Any) -> None:
        self._add("reporter", name, reference)


class Registry:
    """Everything that is installed: plugins with their states, and what they offer."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = tuple(plugins)

    def components(self, kind: str | None = None) -> list[Component]:
        """What active plugins offer, of one kind or of all."""
        return [c for p in self.plugins if p.state == "active" for c in p.components if kind in (None, c.kind)]

    def recipes(self) -> dict[str, RecipeFile]:
        """Name -> recipe file; a name that two plugins ship exists only as `plugin:name`."""
        active = [p for p in self.plugins if p.state == "active"]
        names = [name for plugin in active for name in plugin.recipes]
        return {
            (name if names.count(name) == 1 else f"{plugin.name}:{name}"): RecipeFile(
                name, path, plugin.name, plugin.distribution
            )
            for plugin in active
            for name, path in plugin.recipes.items()
        }

    def add_commands(self, group: click.Group) -> None:
        """Let every plugin add its subcommands; one that raises is noted in its problems and hides no other."""
        for plugin in self.plugins:
            if plugin.state == "active" and plugin.add_commands is not None:
                try:
                    plugin.add_commands(group=group)
                except (Exception, SystemExit) as error:
                    plugin.problems.append(f"its hook `commands` raised {_cause(error)}")

    def find(self, kind: str, name: str, *, home: str = "") -> Component:
        """The component that `name` means: "plugin:name", or a bare name where it is unique.

        home: the distribution of the recipe that wrote the name; among several owners its own is meant, so that no
        installation of something else can break a recipe that a package ships.
        Raises LookupFailure with the reason and what to write.
        """
        owner, _, bare = name.rpartition(":")
        offers = [
            (plugin, component)
            for plugin in self.plugins
            for component in plugin.components
            if (component.kind, component.name) == (kind, bare) and owner in ("", plugin.name)
        ]
        if owner:
            plugin = next((p for p in self.plugins if p.name == owner), None)
            if plugin is None:
                known = ", ".join(p.name for p in self.plugins)
                raise LookupFailure(Problem(f"there is no plugin '{owner}'", hint=f"installed: {known}"))
            if plugin.state != "active":
                raise LookupFailure(_unusable(plugin, f"{kind} '{name}'"))
        usable = [pair for pair in offers if pair[0].state == "active"]
        if len(usable) > 1:
            usable = [pair for pair in usable if home and pair[0].distribution == home] or usable
        if len(usable) == 1:
            return usable[0][1]
        if usable:
            written = " or ".join(f'"{component.qualified}"' for _, component in usable)
            raise LookupFailure(Problem(f"several plugins offer the {kind} '{name}'", hint=f"write {written}"))
        if offers:
            raise LookupFailure(_unusable(offers[0][0], f"{kind} '{name}'"))
        raise LookupFailure(self._unknown(kind, bare, owner))

    def suspects(self) -> str:
        """Plugins with problems, as one says it beside something that isn't found; nothing where there are none."""
        broken = [p for p in self.plugins if p.state == "failed" or p.problems]
        told = "; ".join(f"{p.name}: {p.cause or p.problems[0]}" for p in broken)
        return f" (plugins with problems, which might have offered it: {told})" if broken else ""

    def _unknown(self, kind: str, name: str, owner: str) -> Problem:
        names = sorted({c.name for c in self.components(kind) if owner in ("", c.plugin)})
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        hint += f"there are: {', '.join(names) or 'none'}"
        hint += self.suspects()
        return Problem(f"there is no {kind} '{name}'", hint=hint)


def _unusable(plugin: Plugin, what: str) -> Problem:
    if plugin.state == "disabled":
        return Problem(f"{what} belongs to the plugin '{plugin.name}', which is disabled", hint="enable it to use it")
    return Problem(f"{what} belongs to the plugin '{plugin.name}', which failed: {plugin.cause}", plugin=plugin.name)


@dataclass(frozen=True, eq=False)
class Components:
    """A manifest made of objects at hand: what `components` returns, for `plugins=` and `load_registry(extra=...)`."""

    name: str
    kinds: Mapping[str, Mapping[str, Any]]

    @hookimpl
    def register_components(self, register: Register) -> None:
        for kind, named in self.kinds.items():
            for name, reference in named.items():
                getattr(register, kind)(name, reference)


def components(name: str = "notebook", **kinds: Mapping[str, Any]) -> Components:
    """Classes and functions of a notebook or a script as a plugin: `components(loss={"total-variation": TotalVariation})`.

    name: the plugin's, for recipes that write "notebook:total-variation".
    kinds: each kind of component (loss, encoder, metric, ...) with a dict of name -> class, or function for a provider.
    Raises UserError for a kind that there isn't, and for what is no such dict.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"components(name={name!r}): expected lower-case letters, digits and dashes")
    if not kinds:
        raise UserError('components: name what it offers, such as components(loss={"my-loss": MyLoss})')
    for kind, named in kinds.items():
        if kind not in KINDS:
            close = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            raise UserError(f"components({kind}=...): there is no such kind; {hint}kinds are: {', '.join(KINDS)}")
        if not isinstance(named, Mapping):
            told = getattr(named, "__name__", repr(named))
            raise UserError(f'components({kind}={told}): expected a dict of names; write {kind}={{"my-{kind}": {told}}}')
    made = Components(name, {kind: dict(named) for kind, named in kinds.items()})
    try:
        made.register_components(Register(Plugin(name)))
    except ValueError as error:
        raise UserError(f"components: {error}") from None
    return made


Plugins = Components | str | Path | Sequence[Components | str | Path]
"""What `plugins=` takes: what `components` returned, a plugin's file, or several of them."""


def registry_with(plugins: Plugins = (), registry: Registry | None = None) -> Registry:
    """What is installed, with `plugins` beside it; or `registry`, for those who have made one.

    Raises UserError for both, and PluginError for a plugin among `plugins` that can't be used: whoever names one needs it.
    """
    given: list[Any] = [plugins] if isinstance(plugins, (Components, str, Path, Mapping)) else list(plugins)
    if registry is not None:
        if given:
            raise UserError("write `plugins` or `registry`, not both; a registry takes them when it is made")
        return registry
    wrong = next((one for one in given if not isinstance(one, (Components, str, Path))), None)
    if wrong is not None:
        raise UserError(
            f"plugins: expected a plugin's file, or hybridgen.components(loss={{...}}), or a list of them; got {wrong!r}"
        )
    extra = {one.name: one for one in given if isinstance(one, Components)}
    if len(extra) < sum(isinstance(one, Components) for one in given):
        raise UserError("plugins: two of them have the same name; write components(name=..., ...)")
    made = load_registry(extra=extra, files=[one for one in given if not isinstance(one, Components)])
    for plugin in made.plugins:
        if plugin.name in extra and plugin.state == "failed":
            raise PluginError(f"the plugin '{plugin.name}' can't be used: {plugin.cause}")
    return made


def load_registry(
    *, disabled: Iterable[str] = (), extra: Mapping[str, object] | None = None, files: Iterable[str | Path] = ()
) -> Registry:
    """Discover every plugin. Never raises for an installed plugin's sake: a failure is its state, with the cause.

    disabled: names never imported, added to those of the environment variable HYBRIDGEN_DISABLE_PLUGINS.
    extra: name -> an object with hook implementations, for notebooks and tests.
    files: Python files that are plugins, each named after its file ("my_loss.py" is "my-loss").
    Raises PluginError for a file that can't be used: whoever names one needs it.
    """
    off = {name.strip() for name in (*disabled, *os.environ.get(DISABLE, "").split(",")) if name.strip()}
    manager = pluggy.PluginManager("hybridgen")
    manager.add_hookspecs(hookspecs)
    found = sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.dist.name if e.dist else ""))
    plugins: list[Plugin] = []
    for entry in found:
        dist = entry.dist
        plugin = Plugin(entry.name, dist.name if dist else "", dist.version if dist else "", entry.value)
        before = next((p for p in plugins if p.name == plugin.name), None)
        plugins.append(plugin)
        if before is not None:
            if before.distribution == plugin.distribution:  # one installation, seen through two paths
                plugins.pop()
            else:
                plugin.fail(
                    f"the name '{plugin.name}' is taken by {before.distribution}; {plugin.distribution} must use another"
                )
        elif plugin.name in off:
            plugin.state = "disabled"
        else:
            _load(manager, plugin, entry)
    for name, manifest in (extra or {}).items():
        plugin = Plugin(name, module=type(manifest).__name__)
        plugins.append(plugin)
        if any(before.name == name for before in plugins[:-1]):
            plugin.fail(f"the name '{name}' is taken by {_owner(plugins, name)}; choose another")
        else:
            _adopt(manager, plugin, manifest)
    read = {file.path.resolve(): file for file in map(single_file.read, files)}  # a file that is named twice is one
    for file in read.values():
        taken = _owner(plugins, file.name)
        if taken:
            raise PluginError(f"plugin file {file.path}: the name '{file.name}' is taken by {taken}; rename the file")
        plugin = Plugin(file.name, module=file.module, file=file)
        plugins.append(plugin)
        if file.name in off:
            plugin.state = "disabled"
        else:
            _load_file(manager, plugin, file)
    return Registry(plugins)


def _owner(plugins: Iterable[Plugin], name: str) -> str:
    """The first plugin of a name, as one says whose it is; nothing where there is none."""
    plugin = next((p for p in plugins if p.name == name), None)
    return plugin.origin or "another plugin given here" if plugin else ""


def _load_file(manager: pluggy.PluginManager, plugin: Plugin, file: PluginFile) -> None:
    """A plugin from one file. Raises PluginError with the line for whatever makes it unusable."""
    started = time.perf_counter()
    try:
        module = single_file.imported(file)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{file.path}{single_file.line_of(error, file)}: importing it raised {_cause(error)}") from error
    finally:
        plugin.seconds = time.perf_counter() - started
    raised = _adopt(manager, plugin, module)
    if plugin.state == "failed":
        line = single_file.line_of(raised, file) if raised else ""
        raise PluginError(f"{file.path}{line}: {plugin.cause}") from raised
    if not (plugin.components or plugin.recipes or plugin.add_commands):
        why = plugin.problems[0] if plugin.problems else "it offers nothing"
        raise PluginError(f"{file.path}: {why}; write in it:\n\n{SNIPPET}")
    for component in plugin.components:
        module_name, _, attribute = component.reference.partition(":") if isinstance(component.reference, str) else ("", "", "")
        if module_name == file.path.stem:
            raise PluginError(
                f"{file.path}: the {component.kind} '{component.name}' is referred to by the name of its own file; in a single "
                f'file name the object itself: register.{component.kind}("{component.name}", {attribute})'
            )


SNIPPET = """\
from hybridgen import hookimpl


@hookimpl
def register_components(register):
    register.loss("my-loss", MyLoss)
"""


def hooks() -> dict[str, Callable[..., Any]]:
    """Name -> specification of each hook that a manifest may implement."""
    return {name: found for name, found in vars(hookspecs).items() if hasattr(found, "hybridgen_spec")}


def _load(manager: pluggy.PluginManager, plugin: Plugin, entry: EntryPoint) -> None:
    started = time.perf_counter()
    light = {name for name in HEAVY if name not in sys.modules}
    try:
        manifest = entry.load()
    except (Exception, SystemExit) as error:
        plugin.fail(f"importing {entry.value} raised {_cause(error)}")
        return
    finally:
        plugin.seconds = time.perf_counter() - started
    heavy = sorted(name for name in light if name in sys.modules)
    if heavy:
        plugin.problems.append(
            f"its manifest {entry.value} imports {' and '.join(heavy)}, which makes every command slow; "
            'import it in the modules that `register` names as "package.module:Attribute"'
        )
    _adopt(manager, plugin, manifest)


def _adopt(manager: pluggy.PluginManager, plugin: Plugin, manifest: object) -> BaseException | None:
    """Check a manifest's interface number and hook names, then call its hooks one by one. Returns what a hook raised."""
    number = getattr(manifest, "HYBRIDGEN_API", 1)
    if number != API:
        plugin.fail(f"it speaks plugin interface {number}, this hybridgen speaks {API}; install a version made for it")
        return None
    try:
        implementations = _hooks(manager, plugin, manifest)
        if "register_components" in implementations:
            implementations["register_components"](register=Register(plugin))
        if "recipes" in implementations:
            folder = Path(implementations["recipes"]())
            plugin.recipes = {path.stem: path for path in sorted(folder.glob("*.toml"))}
        plugin.add_commands = implementations.get("commands")
    except (Exception, SystemExit) as error:
        plugin.fail(_cause(error))
        return error
    return None


def _hooks(manager: pluggy.PluginManager, plugin: Plugin, manifest: object) -> dict[str, Callable[..., Any]]:
    """Hook name -> implementation of one manifest; names that are no hooks become problems with a suggestion."""
    known = hooks()
    for name in dir(manifest):
        if hasattr(getattr(manifest, name, None), "hybridgen_impl") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"hooks are: {', '.join(known)}"
            plugin.problems.append(f"`{name}` is no hook; {hint}")
    manager.register(manifest, plugin.name)
    found = {}
    for name in known:
        for implementation in getattr(manager.hook, name).get_hookimpls():
            if implementation.plugin is manifest:
                function, names = implementation.function, implementation.argnames
                found[name] = _limited(function, names)
    return found


def _limited(function: Callable[..., Any], names: Iterable[str]) -> Callable[..., Any]:
    """A hook implementation takes the arguments that its signature names, as pluggy has it."""
    wanted = tuple(names)
    return lambda **given: function(**{name: given[name] for name in wanted})


def _cause(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, SystemExit):
        return f"SystemExit({error.code!r})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
