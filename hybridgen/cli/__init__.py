"""The command line: one module a verb, imported when it is called, so that `--help` and `ls` start no torch.

Results (a run's path, a table, JSON) go to stdout; the report and errors go to stderr.
Exit codes: 0 done, 1 our fault, 2 something in the input has to change, 3 the run diverged, 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from hybridgen._version import __version__

VERBS = {
    "run": "Train a recipe and watch it learn.",
    "resume": "Go on with a run that was stopped, bit for bit.",
    "ls": "List recipes, components, plugins and runs.",
    "show": "Explain one component: options, defaults, a snippet to paste.",
    "check": "Find everything that is wrong with a recipe, without training.",
    "doctor": "Look over this installation and machine, and what a recipe needs of them.",
    "resolve": "Print a recipe in full, with the origin of each value.",
    "new": "Start a plugin, or a recipe.",
    "cp": "Copy a recipe to edit.",
    "schema": "Write a JSON Schema of recipes, for editors.",
    "sample": "Draw new samples from a trained run.",
    "reconstruct": "Pass pictures or held-out examples through a trained run.",
    "evaluate": "Measure a trained run: every metric that it allows, with its protocol.",
    "compare": "Set evaluations of runs side by side, where their protocols agree.",
    "bench": "Time a recipe's steps here, and say where the time goes.",
    "check-plugin": "Hold a plugin to what its components promise.",
    "report": "Draw the report of a run again from its record.",
}

LOOKS_NOTHING_UP = ("compare", "report")
"""Verbs that read what a run recorded: no component, no recipe, hence no plugin."""

FILES = "hybridgen.plugin"
"""Where an invocation keeps the files that were given with --plugin."""

EPILOG = """\b
Examples:
  hybridgen run vagan-digits                         train on real digits that need no download
  hybridgen run vagan-images data.path=~/pictures    train on your own folder of pictures
  hybridgen ls recipes                               what there is to run
  hybridgen cp vagan-digits mine.toml                a copy to edit
  hybridgen resume --auto                            go on with the newest unfinished run
"""


def _note_files(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> None:
    ctx.meta.setdefault(FILES, []).extend(given)  # one for the whole invocation, wherever on the line it was written


plugin_option = click.option(
    "--plugin",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    expose_value=False,
    is_eager=True,
    callback=_note_files,
    help="A Python file that is a plugin; may be given several times.",
)


class LazyGroup(click.Group):
    """A group whose shipped commands are imported when they are called; plugins' commands are added on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *sorted(name for name in self._plugins(ctx) if name not in VERBS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in VERBS:
            command: click.Command = importlib.import_module(f"hybridgen.cli.{name.replace('-', '_')}").command
            return command if name in LOOKS_NOTHING_UP else _with_plugin_option(command)
        return self._plugins(ctx).get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if close:
                raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs without importing one of them."""
        rows = [(name, VERBS.get(name) or self._short_help(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(80) if command else ""

    def _plugins(self, ctx: click.Context) -> Mapping[str, click.Command]:
        group = click.Group("plugins")
        registry_of(ctx).add_commands(group)
        return group.commands


def _with_plugin_option(command: click.Command) -> click.Command:
    """A copy of a verb that takes --plugin, for `registry_of` to find."""
    made = copy.copy(command)
    made.params = list(command.params)
    return plugin_option(made)


def registry_of(ctx: click.Context) -> Any:
    """The plugins of this process, discovered once an invocation."""
    from hybridgen.registry import load_registry

    root = ctx.find_root()
    if root.obj is None:
        root.obj = load_registry(disabled=tuple(root.params.get("disable_plugin") or ()), files=ctx.meta.get(FILES, ()))
        for plugin in root.obj.plugins:
            for problem in [*([plugin.cause] if plugin.state == "failed" else []), *plugin.problems]:
                click.echo(f"hybridgen: plugin '{plugin.name}': {problem}", err=True)
    return root.obj


@contextlib.contextmanager
def bringing_torch() -> Iterator[None]:
    """Around imports that bring torch: looking for garbage among its objects, of which there is none, takes a fifth of the
    time. They are set apart, for later looks need not pass them either."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hybridgen")
@click.option("--disable-plugin", multiple=True, metavar="NAME", help="Leave a plugin out; may be given several times.")
@plugin_option
def cli(disable_plugin: tuple[str, ...]) -> None:
    """Hybrid generative models (autoencoders, VAEs, GANs and their mixtures) composed from plugins by a recipe."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with a code that says how it ended."""
    from hybridgen.errors import HybridgenError

    if arguments is None:  # a process of our own: it need not look for garbage before it ends, 1.5 s with torch in it
        atexit.register(gc.freeze)
    try:
        code = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("hybridgen: interrupted", err=True)
        sys.exit(130)
    except HybridgenError as error:
        click.echo(f"hybridgen: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `hybridgen ls | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
