"""What a run costs beside its steps, and whether these stay what they are: the second table of RESULTS.md.

    python tests/benchmarks/steady.py                one thread; about four minutes
    python tests/benchmarks/steady.py --steps 2000   quicker

start   seconds from `hybridgen run` to its first row, of one step, in a process of its own (three times)
report  share of a run that goes into events: metrics.jsonl, the console, health
flat    median step and memory of each tenth of a long run
linear  a step's time against the batch: overhead, milliseconds a sample, and how far the worst point lies off that line
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import hybridgen
from hybridgen.allocator import keep_freed_memory
from hybridgen.bench import Steps, alternate
from hybridgen.precision import Choices
from hybridgen.recipe import load_recipe
from hybridgen.session import Prepared, Session

EAGER = Choices("cpu", "fp32", False, (), 1)


def start(recipe: str) -> list[float]:
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as runs:
            began = time.time()
            command = [sys.executable, "-m", "hybridgen", "run", recipe, "train.steps=1", "train.log_every=1", "--runs", runs]
            subprocess.run(command, check=True, capture_output=True)
            (log,) = Path(runs).glob("*/metrics.jsonl")
            events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            found.append(next(e["time"] for e in events if e["event"] == "row") - began)
    return found


def report(recipe: str, steps: int) -> float:
    """Share of the time between the first and the last event that is spent telling."""
    told, plain = [0.0], Session.emit

    def emit(self: Session, event: str, **fields: object) -> object:
        began = time.perf_counter()
        try:
            return plain(self, event, **fields)
        finally:
            told[0] += time.perf_counter() - began

    Session.emit = emit  # type: ignore[method-assign, assignment]
    try:
        with tempfile.TemporaryDirectory() as runs:
            outcome = hybridgen.train(recipe, {"train.steps": steps}, runs=runs, report="plain")
            lines = (outcome.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            times = [json.loads(line)["time"] for line in lines]
    finally:
        Session.emit = plain  # type: ignore[method-assign]
    return told[0] / (max(times) - min(times))


def resident() -> float:
    """MiB of this process in memory, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def flat(recipe: str, steps: int) -> list[tuple[float, float]]:
    """Median milliseconds of a step, and MiB, for each tenth of a run."""
    run = Steps(Prepared(load_recipe(recipe, {"train.steps": steps}), EAGER))
    found = []
    for _ in range(10):
        taken = []
        for i in range(steps // 10):
            began = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - began))
            if i % 50 == 0:
                run.record.mean()
        found.append((statistics.median(taken), resident()))
    return found


def linear(recipe: str) -> tuple[float, float, float]:
    """Overhead in ms, ms a sample, and the largest share by which a point lies off the line."""
    sizes = [32, 64, 128, 256, 512]
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", np.random.default_rng(0).integers(0, 256, (2048, 1, 28, 28), dtype=np.uint8))
        data = {"data.use": "arrays", "data.path": f"{folder}/x.npy"}
        runs = {str(n): Steps(Prepared(load_recipe(recipe, {**data, "data.batch_size": n}), EAGER)) for n in sizes}
        alternate(runs, 10, 1, torch.device("cpu"))
        taken = [1e3 * min(seconds) for seconds in alternate(runs, 20, 9, torch.device("cpu")).values()]
    slope, overhead = np.polyfit(sizes, taken, 1, w=1 / np.array(taken))
    off = max(abs(overhead + slope * n - t) / t for n, t in zip(sizes, taken, strict=True))
    return float(overhead), float(slope), float(off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="of the long run")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    keep_freed_memory()
    print("start, s:", ", ".join(f"{seconds:.1f}" for seconds in start("vagan-digits")), flush=True)
    print(f"report: {report('vagan-digits', 400):.2%} of 400 steps of vagan-digits", flush=True)
    print("flat, ms and MiB:", ", ".join(f"{ms:.2f} {mib:.0f}" for ms, mib in flat("vae-mlp", steps)), flush=True)
    overhead, slope, off = linear("vae-mlp")
    print(f"linear: {overhead:.1f} ms + {1e3 * slope:.0f} us a sample, the worst point {off:.0%} off")


if __name__ == "__main__":
    main()
