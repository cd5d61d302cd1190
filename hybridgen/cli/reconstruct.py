"""`hybridgen reconstruct`: examples through a trained run."""

from __future__ import annotations

from pathlib import Path

import click

from hybridgen.cli import bringing_torch, registry_of
from hybridgen.cli.sample import drawable


@click.command(
    "reconstruct",
    epilog="""\b
Examples:
  hybridgen reconstruct vagan-digits                     held-out examples of the run's own data
  hybridgen reconstruct vagan-digits a.png b.png         pictures of yours, brought to the model's size
""",
)
@click.argument("run")
@click.argument("pictures", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=32, show_default=True, type=click.IntRange(min=1), metavar="N", help="Held-out examples.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="A .png, .npy or .txt file [default: reconstructions.png in the run]."
)
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--device", default="cpu", show_default=True)
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    pictures: tuple[Path, ...],
    count: int,
    out: Path | None,
    runs: str,
    device: str,
) -> None:
    """Show examples above what RUN makes of them."""
    registry = registry_of(ctx)
    from hybridgen.run_folder import find_run

    with bringing_torch():
        from hybridgen.examples import held_out
        from hybridgen.pictures import read_picture, save_comparison
        from hybridgen.use import load

    drawable(out)
    folder = find_run(run, runs, trained=True)
    model = load(folder, device=device, registry=registry)
    label = None
    if pictures:
        import torch

        x = torch.stack([read_picture(path, model.spec) for path in pictures])
    else:
        x, label = held_out(folder, count, registry=registry)
    out = out or folder / "reconstructions.png"
    save_comparison(out, x, model.reconstruct(x, label=label).cpu(), model.spec)
    click.echo(str(out))
