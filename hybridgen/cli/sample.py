"""`hybridgen sample`: new examples from a trained run."""

from __future__ import annotations

from pathlib import Path

import click

from hybridgen.cli import bringing_torch, registry_of


def drawable(out: Path | None) -> None:
    """Refuse a name that says no format, before anything is computed. Raises UserError."""
    from hybridgen.errors import UserError

    if out is not None and out.suffix not in (".png", ".npy", ".txt"):
        raise UserError(
            f"--out {out}: expected a name that ends in .png (a picture), .npy (an array in model space) or .txt (text data)"
        )


@click.command(
    "sample",
    epilog="""\b
Examples:
  hybridgen sample runs/vagan-digits-20260101-120000-1a2b
  hybridgen sample vagan-digits --count 100 --seed 3 --out digits.png     the newest run of that name
  hybridgen sample vagan-digits --count 1000 --out digits.npy             an array in model space
""",
)
@click.argument("run")
@click.option("--count", default=64, show_default=True, type=click.IntRange(min=1), metavar="N")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), metavar="N")
@click.option("--label", type=int, help="The class to draw, for conditional models.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="A .png, .npy or .txt (text) file [default: samples-SEED.png in the run]."
)
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--device", default="cpu", show_default=True)
@click.pass_context
def command(
    ctx: click.Context, run: str, count: int, seed: int, label: int | None, out: Path | None, runs: str, device: str
) -> None:
    """Draw new samples from RUN (a folder, or the beginning of its name) with its averaged weights."""
    registry = registry_of(ctx)
    from hybridgen.run_folder import find_run

    with bringing_torch():
        from hybridgen.pictures import save_samples
        from hybridgen.use import load

    drawable(out)
    folder = find_run(run, runs, trained=True)
    model = load(folder, device=device, registry=registry)
    out = out or folder / f"samples-{seed}.png"
    save_samples(out, model.sample(count, seed=seed, label=label), model.spec)
    click.echo(str(out))
