"""The conformance kit: what a component has to hold to, as separate named checks, in the spirit of scikit-learn's.

    import pytest
    from hybridgen.testing import checks

    @pytest.mark.parametrize("check", checks("mine"), ids=str)
    def test_conformance(check):
        check()

`hybridgen check-plugin mine` runs the same from the command line. Each failure says what was found, what was expected, why that
matters and how to mend it; what a check does not apply to is skipped with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hybridgen.errors import HybridgenError, UserError
from hybridgen.model import told
from hybridgen.registry import Plugin, Registry, load_registry
from hybridgen.testing import components, networks, others, terms
from hybridgen.testing.hosts import KIT
from hybridgen.testing.subject import Fault, Subject

__all__ = ["Check", "CheckFailed", "Results", "checks", "run_checks"]

EVERY = (components.imports, components.signature, components.documented, components.defaults)
MODULE = (
    components.builds,
    components.round_trip,
    networks.shapes,
    networks.autocast,
    networks.moves,
    networks.gradients,
    networks.unshared,
    networks.seeded,
    networks.batch_mates,
    networks.saved,
    networks.copied,
    networks.traceable,
    networks.compiles,
    terms.unread,
    terms.resumes,
)
TERM = (
    components.builds,
    components.round_trip,
    terms.finite,
    terms.duplicated,
    terms.routed,
    terms.free_at_zero,
    networks.autocast,
    networks.moves,
    networks.gradients,
    networks.unshared,
    networks.seeded,
    networks.saved,
    networks.copied,
    networks.compiles,
    terms.unread,
    terms.resumes,
)
PROVIDER = (
    components.builds,
    components.round_trip,
    terms.repeatable,
    terms.identity,
    networks.autocast,
    networks.moves,
    networks.unshared,
    networks.copied,
    networks.traceable,
    networks.compiles,
    terms.unread,
    terms.resumes,
)
BY_KIND: dict[str, tuple[Callable[[Subject], None], ...]] = {
    "encoder": (*EVERY, *MODULE),
    "decoder": (*EVERY, *MODULE),
    "discriminator": (*EVERY, *MODULE, networks.twice),
    "latent": (*EVERY, *MODULE, others.distributions),
    "loss": (*EVERY, *TERM),
    "provider": (*EVERY, *PROVIDER),
    "data": (*EVERY, components.round_trip, others.described, others.reproducible),
    "metric": (*EVERY, components.round_trip, others.stated, others.orderless),
    "features": (*EVERY, components.round_trip, others.embeds),
    "reporter": (*EVERY, components.round_trip, others.listens),
}
"""What is asked of each kind, in the order in which it is asked."""


class CheckFailed(AssertionError):  # noqa: N818
    """A component does not hold to what its kind promises; the message says what, why it matters and how to mend it."""


@dataclass(frozen=True, eq=False)
class Check:
    """One question to one component (or plugin, or recipe). Call it: it returns, raises CheckFailed, or raises
    `unittest.SkipTest`, which pytest reports as skipped, with the reason."""

    name: str
    subject: str
    run: Callable[[], None]
    text: str

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"

    def __call__(self) -> None:
        try:
            self.run()
        except Fault as found:
            raise CheckFailed(self._message(str(found))) from found
        except SkipTest:
            raise
        except HybridgenError as error:
            raise CheckFailed(self._message(str(error))) from error
        except Exception as error:
            raise CheckFailed(self._message(f"it raises {told(error)}")) from error

    def _message(self, found: str) -> str:
        expected, _, rest = self.text.partition("\n\n")
        lines = [f"{self.subject}: {found}", f"Expected: {' '.join(expected.split())}"]
        for part in ("Why", "Mend"):
            _, marked, after = rest.partition(f"{part}: ")
            if marked:
                lines.append(f"{part}: {' '.join(after.partition('Mend: ')[0].split())}")
        return "\n  ".join(lines)


def checks(
    plugin: str,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
    only: Iterable[str] = (),
) -> list[Check]:
    """Every check of a plugin: of itself, of each recipe that it ships and of each component.

    plugin: its name in `hybridgen ls plugins`. options: "kind:name" -> values for options that have no default, e.g.
    {"data:folder": {"path": "/pictures"}}. registry: what is installed, found anew by default. only: components
    ("kind:name"), all by default.
    Raises UserError for a plugin or a component that there isn't.
    """
    found = registry or load_registry()
    known = next((p for p in found.plugins if p.name == plugin), None)
    if known is None:
        raise UserError(f"there is no plugin '{plugin}'; installed: {', '.join(p.name for p in found.plugins)}")
    whole = Registry([*found.plugins, KIT])
    names = [f"{component.kind}:{component.name}" for component in known.components]
    wanted, given = list(only), dict(options or {})
    for name in (*wanted, *given):
        if name not in names:
            raise UserError(f"plugin '{plugin}' has no component '{name}'; it has: {', '.join(names) or 'none'}")
    made = [] if wanted else _of_plugin(known, whole)
    if known.state != "active":
        return made
    for component, name in zip(known.components, names, strict=True):
        if not wanted or name in wanted:
            subject = Subject(component, whole, given.get(name, {}), tuple(known.recipes.values()))
            made += _of_component(subject)
    return made


def _of_plugin(plugin: Plugin, registry: Registry) -> list[Check]:
    label = f"plugin:{plugin.name}"
    made = [Check(f.__name__, label, partial(f, plugin), inspect.getdoc(f) or "") for f in (others.active, others.light)]
    text = inspect.getdoc(others.recipe) or ""
    for name, path in plugin.recipes.items():
        made.append(Check("loads", f"recipe:{name}", partial(others.recipe, registry, Path(path)), text))
    return made


def _of_component(subject: Subject) -> list[Check]:
    """A component that can't be imported or built is told so once: what depends on that is skipped."""
    made: list[Check] = []
    broken: list[str] = []

    def asked(function: Callable[[Subject], None]) -> None:
        if broken:
            raise SkipTest(f"`{broken[0]}` failed")
        try:
            function(subject)
        except SkipTest:
            raise
        except Exception:
            if function in (components.imports, components.signature, components.builds):
                broken.append(function.__name__)
            raise

    for function in BY_KIND[subject.component.kind]:
        made.append(Check(function.__name__, str(subject), partial(asked, function), inspect.getdoc(function) or ""))
    return made


@dataclass(frozen=True)
class Results:
    """What became of a plugin's checks: names that passed; check -> reason for the others."""

    passed: tuple[str, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]

    def __str__(self) -> str:
        return f"{len(self.passed)} passed, {len(self.skipped)} skipped, {len(self.failed)} failed"


def run_checks(all_checks: Iterable[Check], tell: Callable[[Check, str, str], None] = lambda *_: None) -> Results:
    """Run checks to the end, whatever fails. tell: hears of each as it is done: the check, its outcome, the reason."""
    passed: list[str] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    for check in all_checks:
        try:
            check()
        except SkipTest as reason:
            skipped[str(check)] = str(reason)
            tell(check, "skipped", str(reason))
        except CheckFailed as failure:
            failed[str(check)] = str(failure)
            tell(check, "failed", str(failure))
        else:
            passed.append(str(check))
            tell(check, "passed", "")
    return Results(tuple(passed), skipped, failed)
