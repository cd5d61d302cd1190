"""`hybridgen bench`: how fast a recipe trains here, and where its time goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from hybridgen.cli import bringing_torch, registry_of

AGAINST = {
    "eager": "the same in float32, contiguous, nothing compiled",
    "loop": "a loop written by hand for this recipe",
}


@click.command(
    "bench",
    epilog="""\b
Examples:
  hybridgen bench                                          vagan-digits
  hybridgen bench dcgan train.precision=bf16
  hybridgen bench vagan data.use=images data.path=~/pictures --against eager
  hybridgen bench vae-mlp --against loop --json            in a checkout of the source
""",
)
@click.argument("recipe", default="vagan-digits")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", default=50, show_default=True, type=click.IntRange(min=1), help="Steps of a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Rounds; medians are shown.")
@click.option(
    "--against",
    type=click.Choice(list(AGAINST)),
    help="What to alternate with: the same with everything switched off, or a loop written by hand.",
)
@click.option("--json", "as_json", is_flag=True, help="The whole result as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    steps: int,
    rounds: int,
    against: str | None,
    as_json: bool,
) -> None:
    """Time the training steps of RECIPE (vagan-digits where none is given) on its own data. No run is written."""
    registry = registry_of(ctx)
    from hybridgen.allocator import keep_freed_memory
    from hybridgen.recipe import load_recipe

    with bringing_torch():
        from hybridgen.bench import bench

    keep_freed_memory()
    found = bench(load_recipe(recipe, overrides, registry=registry), steps=steps, rounds=rounds, against=against or "")
    click.echo(json.dumps(found, indent=2) if as_json else table(found))


def table(found: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    choices, step = found["choices"], found["step"]
    rounds = found["rounds"]["hybridgen"]
    low, high = 1e3 * min(rounds), 1e3 * max(rounds)
    compiled = "compiled" if choices["compile"] else "eager"
    layout = "channels-last" if choices["channels_last"] else "contiguous"
    lines = [
        f"{found['recipe']}: {compiled}, {choices['precision']}, {layout}, batch {found['batch_size']}",
        f"on {found['machine']}",
        "",
        f"  samples a second     {found['samples_per_step'] / step:>10,.0f}",
        f"  a step               {1e3 * step:>10.2f} ms    {low:.2f} to {high:.2f} over {len(rounds)} rounds",
        f"  first step           {found['first_step']:>10.2f} s{'     compilation is in it' if choices['compile'] else ''}",
        f"  memory               {found['memory'] / 2**20:>10,.0f} MiB",
    ]
    reached = found["flops"] / step
    lines += [
        f"  matrix products      {reached / 1e9:>10,.1f} GFLOP/s, {reached / found['peak']['operations']:.0%} of the "
        f"{found['peak']['operations'] / 1e9:,.0f} that one large product reaches here",
        f"  memory bandwidth     {found['peak']['bytes'] / 2**30:>10,.1f} GiB/s in a copy",
        "",
        "  where a step's time goes, each part waited for by itself",
    ]
    whole = sum(found["split"].values())
    for name, seconds in found["split"].items():
        lines.append(f"  {name:<26} {1e3 * seconds:>8.2f} ms {seconds / whole:>5.0%}")
    if "against" in found:
        low, high = min(found["ratios"]), max(found["ratios"])
        lines += [
            "",
            f"  {found['ratio']:.2f} times as fast as {AGAINST[found['against']]} ({low:.2f} to {high:.2f}, in alternation)",
        ]
    if "break_even" in found:
        lines.append(f"  compilation is repaid after {found['break_even']:,.0f} steps")
    return "\n".join(lines)
