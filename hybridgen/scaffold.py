"""A plugin's first files: a package of one kind that installs, is listed, trains and passes its own tests.

They are kept as they will be read, in `templates/`: `common/`, and a folder for each kind, whose files go before common ones of
the same name. A file's text and path hold tokens, `{{name}}`, which are replaced; `.tmpl` is dropped. Starts no torch.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Final

from packaging.version import Version

from hybridgen._version import __version__
from hybridgen.errors import UserError
from hybridgen.registry import Registry

HOMES: Final = {
    "encoder": ("nets", "Encoder"),
    "decoder": ("nets", "Decoder"),
    "discriminator": ("nets", "Critic"),
    "loss": ("losses", "Loss"),
    "latent": ("latents", "Latent"),
    "data": ("data", "Data"),
    "metric": ("metrics", "Metric"),
    "features": ("features", "Features"),
    "provider": ("providers", "Provider"),
    "reporter": ("reporters", "Reporter"),
    "recipes": ("", ""),
}
"""Kind -> the module that holds the component, and how its class's name ends; a package of recipes holds no component."""

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST: Final = 24
"""Characters in a name: the lines of the templates that hold one stay below 89 characters."""

TEMPLATES: Final = Path(__file__).parent / "templates"
TOKEN: Final = re.compile(r"\{\{(\w+)\}\}")


def write_plugin(folder: Path, name: str, kind: str) -> list[Path]:
    """Write a plugin package into a folder, which is made; returns the paths of its files.

    Raises UserError where one of them exists already, before anything is written, and where one can't be written.
    """
    files = plugin_files(name, kind)
    there = [str(folder / path) for path in files if (folder / path).exists()]
    if there:
        raise UserError(
            f"nothing is written over: {', '.join(there)} exist{'s' if len(there) == 1 else ''}; choose another --folder"
        )
    for path, text in files.items():
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder / path} can't be written: {error.strerror or error}") from error
    return [folder / path for path in files]


def plugin_files(name: str, kind: str) -> dict[str, str]:
    """Path below the package's folder -> text. `name` is one that `check_name` lets pass."""
    tokens = _tokens(name, kind)
    found = {}
    for folder in (TEMPLATES / "common", TEMPLATES / kind):
        for path in sorted(folder.rglob("*.tmpl")):
            place = path.relative_to(folder).as_posix().removesuffix(".tmpl")
            found[_filled(place, tokens)] = _filled(path.read_text(encoding="utf-8"), tokens)
    return dict(sorted(found.items()))


def _filled(text: str, tokens: dict[str, str]) -> str:
    return TOKEN.sub(lambda token: tokens[token[1]], text)


def _tokens(name: str, kind: str) -> dict[str, str]:
    module, ending = HOMES[kind]
    words = name.split("-")
    if len(words) > 1 and words[-1] in (kind, ending.lower()):
        words.pop()  # the class of edge-loss is EdgeLoss
    return {
        "name": name,
        "kind": kind,
        "package": package_of(name),
        "module": module,
        "Class": "".join(word.capitalize() for word in words) + ending,
        "version": _lower_bound(__version__),
    }


def package_of(name: str) -> str:
    """What a plugin's package is imported as: of its own, whatever modules the name is shared with."""
    return f"hybridgen_{name.replace('-', '_')}"


def _lower_bound(version: str) -> str:
    """The first version of the same interface: 0.3 for 0.3.7; a version that isn't out yet is its own."""
    known = Version(version)
    return version if known.is_prerelease else f"{known.major}.{known.minor}"


def check_name(name: str, kind: str, registry: Registry) -> None:
    """Raises UserError for a plugin's name that is no good one, or that something installed has, saying what to write."""
    if name.startswith("hybridgen"):
        rest = _mended(name.removeprefix("hybridgen"), kind)
        raise UserError(f"the package of a plugin is called hybridgen-NAME by itself; write '{rest}' in place of '{name}'")
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"'{name}' is no good name for a plugin; write lower-case letters and digits, words joined by single dashes, a "
            f"letter first, {LONGEST} characters at most, such as '{_mended(name, kind)}'"
        )
    taken = _taken(name, kind, registry)
    if taken:
        raise UserError(f"the name '{name}' is taken: {taken}; choose another")


def _mended(name: str, kind: str) -> str:
    """A good name that is close to one that isn't."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    found = re.sub(r"[^a-z0-9]+", "-", apart).strip("-").lstrip("0123456789-")[:LONGEST].rstrip("-")
    return found or f"my-{kind}"


def _taken(name: str, kind: str, registry: Registry) -> str:
    """What has the name already, in words: recipes that say it would no longer know what is meant."""
    plugin = next((p for p in registry.plugins if p.name == name), None)
    if plugin is not None:
        return f"there is a plugin of that name, of {plugin.distribution or plugin.module}"
    component = next((c for c in registry.components(kind) if c.name == name), None)
    if component is not None:
        return f"there is a {kind} of that name, of the plugin '{component.plugin}'"
    recipe = next((r for r in registry.recipes().values() if r.name == name), None)
    if recipe is not None:
        return f"there is a recipe of that name, of the plugin '{recipe.plugin}'"
    if importlib.util.find_spec(package_of(name)) is not None:
        return f"there is a package {package_of(name)}"
    return ""
