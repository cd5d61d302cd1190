"""What a plugin may implement: this page is the whole interface.

A plugin is a *manifest module* named by an entry point of the group `hybridgen`. It imports neither torch nor numpy, so
that listing it is instant, and implements any of these hooks:

    from hybridgen import hookimpl

    @hookimpl
    def register_components(register):
        register.loss("free-bits", "my_package.losses:FreeBits")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from hybridgen.registry import Register

hookspec = pluggy.HookspecMarker("hybridgen")


@hookspec
def register_components(register: Register) -> None:
    """Name components: `register.KIND(name, "package.module:Attribute")`, imported only when a recipe uses them.

    A name is lower-case letters, digits and dashes; within a plugin each kind has it once.
    """


@hookspec
def recipes() -> Path:  # type: ignore[empty-body]
    """The folder whose `*.toml` files are recipes that users can name without a path: `return Path(__file__).parent`."""


@hookspec
def commands(group: click.Group) -> None:
    """Add subcommands to `hybridgen`, with click: `@group.command("mine")`.

    It is called for `--help` and for words that are no verb of hybridgen's own: keep heavy imports inside the commands.
    """
