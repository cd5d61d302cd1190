"""What the metrics page shows: every metric orders sets whose order is known; and a long stream costs no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import metrics_page as page
import pytest
import torch

Rows = dict[str, page.Row]
pytestmark = pytest.mark.xdist_group("metrics")  # they share what takes most of their time to make


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> tuple[page.SampleSpec, page.Arrays, page.Arrays, page.Arrays, page.See]:
    spec, every = page.digits()
    see = page.classifier(spec, every, None, "digits")
    return spec, every, *page.divided(every, 1 / 3), see


@pytest.fixture(scope="module")
def generated(digits: tuple) -> Rows:
    spec, _, real, others, see = digits
    return page.generated_rows(spec, real, others, see)


def ordered(rows: Rows, key: str, *names: str) -> None:
    """The values of sets, the best first, and none as good as the one before."""
    values = [float(rows[name][key]) for name in names]
    assert values == sorted(values), f"{key}: {dict(zip(names, values, strict=True))}"
    assert len(set(values)) == len(values), f"{key}: {dict(zip(names, values, strict=True))}"


REAL, SAME, BLURRED, ONE, NOISE = "other real examples", "the same examples", "blurred copies", "one class only", "noise"


@pytest.mark.parametrize("key", ["fid", "kid.mean", "mifid"])
def test_distances_are_least_for_the_same_then_for_real_ones_and_largest_for_noise(generated: Rows, key: str) -> None:
    ordered(generated, key, *((SAME, REAL) if key == "fid" else (REAL,)), BLURRED, NOISE)
    ordered(generated, key, REAL, ONE)
    if key == "fid":
        assert abs(float(generated[SAME]["fid"])) < 1e-3


def test_quality_and_variety_are_told_apart(generated: Rows) -> None:
    def value(name: str, key: str) -> float:
        return float(generated[name][key])

    assert value(SAME, "precision-recall.precision") == value(SAME, "precision-recall.recall") == 1.0
    for key in ("precision-recall.precision", "precision-recall.recall", "density-coverage.coverage"):
        assert value(REAL, key) > 0.8 > 0.3 > value(NOISE, key), key
    # one class: good samples, little variety
    assert value(ONE, "precision-recall.precision") > 0.8
    assert value(ONE, "precision-recall.recall") < 0.35
    assert value(ONE, "density-coverage.coverage") < 0.35
    assert value(ONE, "class-modes.modes") <= 2 < 10 == value(REAL, "class-modes.modes")
    assert value(REAL, "class-modes.kl") < 0.05 < 1.5 < value(ONE, "class-modes.kl")
    assert value(REAL, "inception-score.mean") > value(NOISE, "inception-score.mean")
    assert value(REAL, "inception-score.mean") > value(ONE, "inception-score.mean")


def test_copies_are_found(generated: Rows) -> None:
    assert generated[SAME]["duplicates.copied"] == 1.0
    for name in (REAL, BLURRED, NOISE):
        assert float(generated[name]["duplicates.copied"]) < 0.02
        assert float(generated[name]["duplicates.repeated"]) < 0.02


def test_reconstructions_are_ordered_and_blur_costs_more_where_it_should(digits: tuple) -> None:
    spec, _, real, _, see = digits
    rows = page.reconstruction_rows(spec, real, see)
    best, slight, blurred, another = "the originals", "a tenth of noise", "blurred", "another example"
    for key in ("reconstruction-error", "rfid"):
        ordered(rows, key, *((best, slight, blurred, another) if key != "rfid" else (slight, blurred, "the mean of all")))
    for key in ("psnr", "ssim"):
        ordered({n: {key: -float(row[key])} for n, row in rows.items()}, key, best, slight, blurred, another)
    # a shuffled set has the right distribution and the wrong pairs; the mean of all the other way round
    assert abs(float(rows[another]["rfid"])) < 1e-3
    assert float(rows[another]["reconstruction-error"]) > float(rows["the mean of all"]["reconstruction-error"])


def test_codes_are_ordered_by_what_they_know(digits: tuple) -> None:
    rows = page.code_rows(digits[0], digits[1])
    known = ("the class, one-hot", "10 principal components", "components with as much noise", "noise")
    for key in ("linear-probe.accuracy", "knn-probe.accuracy", "clustering.nmi", "clustering.ari"):
        ordered({n: {key: -float(rows[n][key])} for n in known}, key, *known)
    assert rows["always the same"]["clustering"] == "refused"
    assert float(rows["noise"]["linear-probe.accuracy"]) < 2 * float(rows["noise"]["linear-probe.chance"])
    assert float(rows["noise"]["aggregate-mismatch.p-value"]) > 0.05
    assert float(rows["the class, one-hot"]["aggregate-mismatch.p-value"]) < 0.05
    assert rows["noise"]["active-units"] == 10
    assert rows["always the same"]["active-units"] == 0


def test_codes_of_known_factors_are_ordered() -> None:
    rows = page.factor_rows()
    known = ("the factors", "the factors, rotated", "noise")
    ordered({n: {"mig": -float(rows[n]["mig"])} for n in known}, "mig", *known)
    for key in ("dci.disentanglement", "dci.completeness"):
        assert float(rows["the factors"][key]) > 0.9 > 0.6 > float(rows["the factors, rotated"][key])
    key = "dci.informativeness"
    assert float(rows["the factors, rotated"][key]) > float(rows["noise"][key])


def test_the_page_has_a_table_for_every_section() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for section in ("digits: generated", "digits: reconstructed", "digits: codes", "sprites: codes", "fashion: generated"):
        assert f"<!-- {section} -->\n| " in text


STREAM = """
import resource, sys, torch
from hybridgen.data import Arrays, SampleSpec
from hybridgen.evaluation import prepare
from hybridgen.model import build
from hybridgen.recipe import load_recipe

torch.set_num_threads(1)
names = ("fid", "kid", "mifid", "inception-score", "precision-recall", "density-coverage", "duplicates")
extra = [f"metric.{name}.use={name}" for name in names]
extra += ["metric.precision-recall.most=500", "metric.density-coverage.most=500", "metric.duplicates.most=500"]
extra += ["metric.kid.most=2000", "metric.mifid.most=2000", "metric.kid.subsets=5"]
recipe = load_recipe("vae-digits", [*extra, "features.small.use=classifier", "features.small.steps=5", "data.batch_size=500"])
spec = SampleSpec("image", (1, 8, 8), 60000, 0, 16, 17, "tanh", tuple("0123456789"))

def arrays(count):
    return Arrays(torch.randint(0, 17, (count, 1, 8, 8), dtype=torch.uint8), torch.arange(count) % 10)

splits = {"train": arrays(500), "validation": arrays(50_000)}
few = {"train": splits["train"], "validation": splits["validation"].subset(torch.arange(5000))}
model = build(recipe, spec)
for module in model.parts.values():
    module.eval()
evaluation = prepare(model)
evaluation.run(model.parts, few, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
object.__setattr__(recipe.evaluate, "samples", 50_000)
found = evaluation.run(model.parts, splits, 2)
assert not found.refused and not evaluation.failed, (found.refused, evaluation.failed)
assert found.protocol["metrics"]["fid"]["generated"] == found.protocol["held_out"] == 50_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_fifty_thousand_samples_need_no_more_memory_than_five(tmp_path: Path) -> None:
    # what is freed goes back to the system: the peak is of what is held, not of holes between it
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    line = [sys.executable, "-c", STREAM]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    # 11 MB; all embeddings of both sides alone would be 25 MB for each metric that kept them
    assert float(done.stdout.split()[-1]) < 25, done.stdout
