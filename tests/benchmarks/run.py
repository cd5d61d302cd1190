"""Time hybridgen against loops written by hand, on the same networks and pictures, in one process and in turns.

    python tests/benchmarks/run.py                           every workload, one thread, the tables of RESULTS.md
    python tests/benchmarks/run.py dcgan-64 --threads 2
    python tests/benchmarks/run.py vae-28 --with plain,best
    python tests/benchmarks/run.py larsen-28 --with pythae --pythae ../pythae/bin/python

Contenders: `plain` is the recipe as an eager loop by hand, `best` the same on networks laid out channels-last, `compiled` the
same with its losses compiled, `example` the loop of the PyTorch examples (see examples.py), `pythae` pythae's own trainer (see
pythae_worker.py). hybridgen runs as `auto` decides, and for `plain` once more with everything switched off (`off`). Loops by
hand have convolutions that choose as hybridgen's do, examples have torch's. The peak is a matrix product of 1,024 rows, timed
at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.examples import EXAMPLES
from benchmarks.loops import COMPILED, LOOPS
from benchmarks.networks import PLUGIN

from hybridgen.allocator import keep_freed_memory
from hybridgen.bench import Steps, alternate, by_hand, flops, machine, peak, ratios
from hybridgen.convolution import ChoosingConv2d, ChoosingConvTranspose2d
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


LARSEN = 'extends = "vae-gan-larsen"\n[discriminator]\nfake = "fake"\n'  # pythae's critic sees no reconstructions
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
    "larsen-28": Workload(
        f'{LARSEN}use = "wide-28"\n{NO_FID}{networks("wide-28", "encoder", "decoder")}', "", "", (1, 28, 28), 64, 1
    ),
    "larsen-64": Workload(
        f'{LARSEN}use = "dcgan-64"\n{NO_FID}{networks("dcgan-64", "encoder", "decoder")}', "", "", (3, 64, 64), 64, 1
    ),
    "vae-conv-28": Workload(
        f'extends = "vae-digits"\n{networks("wide-28", "encoder", "decoder")}', "vae-digits", "", (1, 28, 28), 64, 2
    ),
    "vae-mlp-28": Workload(
        'extends = "vae-mlp"\n[encoder]\nwidth = 512\n[decoder]\nwidth = 512\n', "vae-mlp", "", (1, 28, 28), 64, 100
    ),
}


def prepared(work: Workload, folder: Path, choices: Choices | None, threads: int, *, average: bool = True) -> Prepared:
    path = folder / "work.toml"
    path.write_text(f'name = "work"\n{work.recipe}', encoding="utf-8")
    given = {
        "data.use": "arrays",
        "data.path": str(folder / "x.npy"),
        "data.batch_size": work.batch,
        "train.threads": threads,
        "train.steps": 20_000,  # what `auto` weighs the cost of compiling against
    } | ({} if average else {"train.ema": 0.0})
    return Prepared(load_recipe(path, given, registry=load_registry(extra={"benchmarks": PLUGIN})), choices)


def example(work: Workload, made: Prepared, folder: Path) -> Callable[[], None]:
    x = made.spec.to_model(torch.from_numpy(np.load(folder / "x.npy")))
    for module in made.model.parts.values():
        for layer in module.modules():
            if isinstance(layer, ChoosingConv2d | ChoosingConvTranspose2d):  # an example computes convolutions as torch does
                layer.__class__ = type(layer).__base__  # type: ignore[assignment]
    return EXAMPLES[work.example](made.model.parts, x, work.batch, made.model.parts["latent"].z_shape[0])


@contextmanager
def pythae(python: Path, name: str, batch: int, steps: int, threads: int) -> Iterator[Callable[[], float]]:
    """pythae's trainer in a process of its own, which waits for its turn; each call is the seconds of a step."""
    command = [str(python), str(Path(__file__).with_name("pythae_worker.py")), name, str(batch), str(steps), str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as there:
        assert there.stdin is not None
        assert there.stdout is not None

        def turn() -> float:
            there.stdin.write("\n")
            there.stdin.flush()
            return float(there.stdout.readline())

        yield turn
        there.stdin.close()


def measure(name: str, contenders: list[str], rounds: int, threads: int, python: Path) -> dict[str, Any]:
    work = WORKLOADS[name]
    torch.set_num_threads(threads)
    eager = Choices("cpu", "fp32", False, (), threads)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as at, ExitStack() as stack:
        folder = Path(at)
        pictures = np.random.default_rng(0).integers(0, 256, (max(2048, 2 * work.batch), *work.shape), dtype=np.uint8)
        np.save(folder / "x.npy", pictures)
        auto = prepared(work, folder, None, threads, average="pythae" not in contenders)  # pythae keeps no average
        runs: dict[str, Callable[[], Any]] = {"auto": Steps(auto)}
        if "pythae" in contenders:
            runs["pythae"] = stack.enter_context(pythae(python, name, work.batch, work.steps, threads))
        for contender in (c for c in contenders if c != "pythae"):
            made = prepared(
                work, folder, replace(eager, channels_last=contender == "best", compile=contender == "compiled"), threads
            )
            if contender == "example" and work.example:
                runs["example"] = example(work, made, folder)
            elif contender == "off":
                runs["off"] = Steps(made)
            elif (contender in ("plain", "best") and work.loop) or (contender == "compiled" and work.loop in COMPILED):
                runs[contender] = by_hand(LOOPS[work.loop], made)
        taken: dict[str, list[float]] = {key: [] for key in runs}
        for round_ in range(rounds + 1):
            first = round_ % len(runs)  # each round begins with another one
            for key in [*runs][first:] + [*runs][:first]:
                run = runs[key]
                seconds = run() if key == "pythae" else alternate({key: run}, work.steps, 1, device)[key][0]
                if round_:  # the first warms up
                    taken[key].append(seconds)
    return {
        "workload": name,
        "machine": machine(auto.choices),
        "flops": flops(auto),
        "peak": peak(auto.choices)["operations"],
        "chosen": replace(auto.choices, notes=()).__dict__,
        "rounds": taken,
    }


COLUMNS = (("plain", "off"), ("best", "auto"), ("compiled", "auto"), ("example", "auto"), ("pythae", "auto"))


def table(results: list[dict[str, Any]]) -> str:
    names = " | ".join(f"{slower} / {'hybridgen' if faster == 'auto' else faster}" for slower, faster in COLUMNS)
    lines = [f"| workload | hybridgen, ms | of the peak | {names} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for found in results:
        cells = []
        for slower, faster in COLUMNS:
            if slower in found["rounds"] and faster in found["rounds"]:
                each = ratios(found["rounds"], slower, faster)
                cells.append(f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
            else:
                cells.append("-")
        seconds = statistics.median(found["rounds"]["auto"])
        share = found["flops"] / seconds / found["peak"]
        lines.append(f"| {found['workload']} | {1e3 * seconds:.4g} | {share:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], metavar="WORKLOAD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with", dest="contenders", default="off,plain,best,compiled,example")
    parser.add_argument("--pythae", type=Path, help="the python of an environment that has pythae")
    parser.add_argument("--json", type=Path, help="write every round here")
    given = parser.parse_args()
    keep_freed_memory()
    results = []
    for name in given.workloads or WORKLOADS:
        results.append(measure(name, given.contenders.split(","), given.rounds, given.threads, given.pythae))
        print(table(results[-1:]), flush=True)
    print(f"\n{results[0]['machine']}\n\n{table(results)}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
