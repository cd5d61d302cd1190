"""Time hybridgen against loops written by hand, on the same networks and pictures, in one process and in turns.

    python tests/benchmarks/run.py                           every workload, one thread, the tables of RESULTS.md
    python tests/benchmarks/run.py dcgan-64 --threads 2
    python tests/benchmarks/run.py vae-28 --with plain,best

Contenders: `plain` is the recipe as an eager loop by hand, `best` the same on networks laid out channels-last, `example` the
loop of the PyTorch examples (see examples.py). hybridgen runs as `auto` decides, and once more with everything switched off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.examples import EXAMPLES
from benchmarks.loops import LOOPS
from benchmarks.networks import PLUGIN

from hybridgen.bench import Steps, alternate, by_hand, machine, ratios
from hybridgen.precision import Choices
from hybridgen.recipe import load_recipe
from hybridgen.registry import load_registry
from hybridgen.session import Prepared


@dataclass(frozen=True)
class Workload:
    """recipe: TOML over a shipped one; loop: which hand-written loop trains it; shape: of a picture."""

    recipe: str
    loop: str
    example: str
    shape: tuple[int, int, int]
    batch: int
    steps: int


def networks(name: str, *parts: str) -> str:
    return "\n".join(f'[{part}]\nuse = "{name}"\n' for part in parts)


NO_FID = '[metric]\nfid = false\n[evaluate]\nbest = ""\n'

WORKLOADS = {
    "vae-28": Workload('extends = "vae-mlp"', "vae-mlp", "vae", (1, 28, 28), 128, 200),
    "dcgan-64": Workload(
        f'extends = "dcgan"\n{NO_FID}{networks("dcgan-64", "decoder", "discriminator")}',
        "dcgan",
        "dcgan",
        (3, 64, 64),
        64,
        2,
    ),
    "vaegan-28": Workload(
        f'extends = "vagan-digits"\n{NO_FID}{networks("wide-28", "encoder", "decoder", "discriminator")}',
        "vagan-digits",
        "",
        (1, 28, 28),
        64,
        2,
    ),
    "vaegan-64": Workload(
        f'extends = "vagan-digits"\n{NO_FID}{networks("dcgan-64", "encoder", "decoder", "discriminator")}',
        "vagan-digits",
        "",
        (3, 64, 64),
        64,
        1,
    ),
    "wgan-gp-28": Workload(
        f'extends = "wgan-gp"\n{NO_FID}[decoder]\nwidth = 32\n[discriminator]\nwidth = 32\n',
        "wgan-gp",
        "wgan-gp",
        (1, 28, 28),
        64,
        2,
    ),
}


def prepared(work: Workload, folder: Path, choices: Choices | None, threads: int) -> Prepared:
    path = folder / "work.toml"
    path.write_text(f'name = "work"\n{work.recipe}', encoding="utf-8")
    given = {
        "data.use": "arrays",
        "data.path": str(folder / "x.npy"),
        "data.batch_size": work.batch,
        "train.threads": threads,
        "train.steps": 100_000 if choices else 500,
    }
    return Prepared(load_recipe(path, given, registry=load_registry(extra={"benchmarks": PLUGIN})), choices)


def example(work: Workload, made: Prepared, folder: Path) -> Callable[[], None]:
    x = made.spec.to_model(torch.from_numpy(np.load(folder / "x.npy")))
    return EXAMPLES[work.example](made.model.parts, x, work.batch, made.model.parts["latent"].z_shape[0])


def measure(name: str, contenders: list[str], rounds: int, threads: int) -> dict[str, Any]:
    work = WORKLOADS[name]
    torch.set_num_threads(threads)
    eager = Choices("cpu", "fp32", False, (), threads)
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        pictures = np.random.default_rng(0).integers(0, 256, (max(2048, 2 * work.batch), *work.shape), dtype=np.uint8)
        np.save(folder / "x.npy", pictures)
        auto = prepared(work, folder, None, threads)
        runs: dict[str, Callable[[], Any]] = {"auto": Steps(auto)}
        off = prepared(work, folder, eager, threads)
        runs["off"] = Steps(off)
        for contender in contenders:
            made = prepared(work, folder, replace(eager, channels_last=contender == "best"), threads)
            if contender == "example" and work.example:
                runs["example"] = example(work, made, folder)
            elif contender in ("plain", "best"):
                runs[contender] = by_hand(LOOPS[work.loop], made)
        device = torch.device("cpu")
        alternate(runs, work.steps, 1, device)  # warms up
        taken = alternate(runs, work.steps, rounds, device)
    return {
        "workload": name,
        "machine": machine(auto.choices),
        "chosen": replace(auto.choices, notes=()).__dict__,
        "rounds": taken,
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| workload | hybridgen | off | plain / off | best / hybridgen | example / hybridgen |",
        "|---|---|---|---|---|---|",
    ]
    for found in results:
        ms = {key: 1e3 * statistics.median(seconds) for key, seconds in found["rounds"].items()}
        cells = []
        for slower, faster in (("plain", "off"), ("best", "auto"), ("example", "auto")):
            if slower not in ms:
                cells.append("-")
                continue
            found_ratios = ratios(found["rounds"], slower, faster)
            cells.append(f"{statistics.median(found_ratios):.2f} ({min(found_ratios):.2f} to {max(found_ratios):.2f})")
        lines.append(f"| {found['workload']} | {ms['auto']:.1f} ms | {ms['off']:.1f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], metavar="WORKLOAD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with", dest="contenders", default="plain,best,example")
    parser.add_argument("--json", type=Path, help="write every round here")
    given = parser.parse_args()
    results = []
    for name in given.workloads or WORKLOADS:
        results.append(measure(name, given.contenders.split(","), given.rounds, given.threads))
        print(table(results[-1:]), flush=True)
    print(f"\n{results[0]['machine']}\n\n{table(results)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
