"""Evaluation: what metrics see, what they refuse, under what protocol, and how a run is measured after training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import FIXTURES, GAN, LABELLED, SPEC, VAGAN, batch
from torch import Tensor, nn

import hybridgen
from hybridgen import hookimpl
from hybridgen.checkpoint import latest, load_checkpoint
from hybridgen.cli import main
from hybridgen.data import Arrays
from hybridgen.errors import RecipeError, Unmeasurable, UserError
from hybridgen.evaluation import Evaluation, _plain, best_by, prepare
from hybridgen.protocol import compare, differences, holding, newest, protocol_of, sentences
from hybridgen.registry import Registry, load_registry
from hybridgen.step import Training


class Seen:
    """Counts what it sees on both sides, and their sums."""

    unit = "samples"
    higher_is_better = True

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        self.counts = {"real": 0.0, "made": 0.0}
        self.sum = 0.0

    def update(self, x: Tensor) -> None:
        self.counts["real"] += len(x)

    def generated(self, fake: Tensor) -> None:
        self.counts["made"] += len(fake)
        self.sum += float(fake.double().sum())

    def compute(self) -> dict[str, float]:
        return {**self.counts, "sum": self.sum}


class Distance:
    """Distance of the mean embeddings."""

    unit = "squared"
    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.real: list[Tensor] = []
        self.made: list[Tensor] = []
        self.remarks = ["a remark"]

    def update(self, real_embedding: Tensor) -> None:
        self.real.append(real_embedding)

    def generated(self, fake_embedding: Tensor) -> None:
        self.made.append(fake_embedding)

    def compute(self) -> float:
        if sum(len(made) for made in self.made) < 4:
            raise Unmeasurable("fewer than 4 samples; raise evaluate.samples")
        return float((torch.cat(self.real).mean(0) - torch.cat(self.made).mean(0)).square().sum())


class Classes:
    """Largest class probability of generated samples."""

    unit = "share"
    higher_is_better = True

    def reset(self) -> None:
        self.largest = 0.0

    def generated(self, fake_probabilities: Tensor) -> None:
        self.largest = max(self.largest, float(fake_probabilities.max()))

    def compute(self) -> float:
        return self.largest


class Greedy:
    """Asks for real examples among the generated ones."""

    unit, higher_is_better = "", None

    def reset(self) -> None: ...

    def generated(self, fake: Tensor, x: Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


class Network(nn.Module):
    """Features behind a batch norm: in train mode an embedding would depend on its batch mates."""

    classes = 3

    def __init__(self, sample_shape: tuple[int, ...], *, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.prepared = 0
        size = int(torch.tensor(sample_shape).prod())
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 3)

    def prepare(self, train: Arrays, held_out: Arrays | None, spec: Any, data: str, tell: Callable[[str], None]) -> None:
        assert torch.is_grad_enabled()
        if self.broken:
            raise UserError("the weights are gone")
        self.prepared += 1
        tell(f"looked at {len(train)} of {data}")

    def describe(self) -> dict[str, Any]:
        return {"dim": 4, "weights": "abcd"}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.body(x)
        return embedding, self.head(embedding)


@hookimpl
def register_components(register: Any) -> None:
    for name, metric in (("seen", Seen), ("distance", Distance), ("classes", Classes), ("greedy", Greedy)):
        register.metric(name, metric)
    register.features("network", Network)


MEASURES = SimpleNamespace(HYBRIDGEN_API=1, register_components=register_components)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry(extra={"fixtures": FIXTURES, "measures": MEASURES})


METRICS = """
[metric.seen]
use = "seen"
[metric.distance]
use = "distance"
[features.net]
use = "network"
"""


def examples(count: int = 20, spec: Any = SPEC) -> dict[str, Arrays]:
    made = batch(count, spec=spec)
    arrays = Arrays(spec.to_stored(made["x"]), made.get("label"))
    return {"train": arrays, "validation": arrays}


Make = Callable[..., Training]


def measured(state: Training, splits: dict[str, Arrays] | None = None, **options: Any) -> tuple[Evaluation, Any]:
    evaluation = prepare(state.model)
    return evaluation, evaluation.run(state.refresh_averaged(), splits or examples(), 1, **options)


def test_generated_samples_have_a_number_of_their_own_and_do_not_depend_on_the_batch_size(training: Make) -> None:
    small = measured(training(GAN + METRICS, "evaluate.samples=33", "data.batch_size=8"))[1]
    assert small.values["seen.real"] == 20
    assert small.values["seen.made"] == 33
    larger = measured(training(GAN + METRICS, "evaluate.samples=33", "data.batch_size=7"))[1]
    assert larger.values["seen.sum"] == pytest.approx(small.values["seen.sum"], rel=1e-5)
    by_default = measured(training(GAN + METRICS))[1]
    assert by_default.values["seen.made"] == 20
    assert by_default.protocol["metrics"]["seen"]["generated"] == 20


def test_the_noise_is_that_of_the_evaluations_seed(training: Make) -> None:
    state = training(GAN + METRICS)
    first, again = measured(state)[1].values, measured(state)[1].values
    assert first == again
    other = prepare(state.model)
    object.__setattr__(other.model.recipe.evaluate, "seed", 1)
    assert other.run(state.refresh_averaged(), examples(), 1).values["seen.sum"] != first["seen.sum"]


def test_feature_networks_are_frozen_in_eval_mode_and_made_ready_once(training: Make) -> None:
    state = training(GAN + METRICS)
    evaluation, found = measured(state)
    network: Any = evaluation.networks["net"]
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert network.prepared == 1
    statistics = network.body[2].running_mean.clone()
    again = evaluation.run(state.refresh_averaged(), examples(), 2)
    assert network.prepared == 1
    assert torch.equal(network.body[2].running_mean, statistics)
    assert again.values["distance"] == found.values["distance"]
    shuffled = {name: a.subset(torch.arange(19, -1, -1)) for name, a in examples().items()}
    assert evaluation.run(state.refresh_averaged(), shuffled, 3).values["distance"] == pytest.approx(found.values["distance"])


def test_what_is_done_is_told(training: Make) -> None:
    told: list[tuple[str, int, int]] = []
    measured(training(GAN + METRICS), progress=lambda *what: told.append(what))
    assert ("looked at 20 of digits", 0, 0) in told
    assert ("generated samples", 8, 20) in told


def test_values_that_are_not_finite_are_refused_with_their_number(training: Make) -> None:
    state = training(GAN + METRICS)
    with torch.no_grad():
        for parameter in state.model.parts["decoder"].parameters():
            parameter.fill_(float("nan"))
    state.average = None
    evaluation, found = measured(state)
    assert "`fake` (20 of 20)" in found.refused["seen"]
    assert "NaN or infinite" in found.refused["distance"]
    assert "seen.real" not in found.values
    assert not evaluation.failed  # it may be finite again at the next one


def test_a_metric_that_has_no_number_is_asked_again(training: Make) -> None:
    state = training(GAN + METRICS, "evaluate.samples=3")
    evaluation, found = measured(state)
    assert found.refused == {"distance": "fewer than 4 samples; raise evaluate.samples"}
    object.__setattr__(evaluation.model.recipe.evaluate, "samples", 8)
    found = evaluation.run(state.refresh_averaged(), examples(), 2)
    assert "distance" in found.values
    assert found.remarks == {"distance": ("a remark",)}


def test_time_that_runs_out_leaves_no_number(training: Make) -> None:
    found = measured(training(GAN + METRICS, "evaluate.limit=0s"))[1]
    assert found.values == {}
    assert "stopped after 0 s, with 0 of 20" in found.refused["seen"]
    assert "evaluate.limit" in found.refused["seen"]


def test_features_that_fail_cost_the_metrics_behind_them_and_no_other(training: Make) -> None:
    evaluation, found = measured(training(GAN + METRICS, "features.net.broken=true"))
    assert evaluation.failed == found.refused == {"distance": "the weights are gone"}
    assert "seen.made" in found.values


def test_a_quantity_that_fails_and_a_number_that_is_none_cost_their_metrics_alone(
    training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GAN + METRICS + '[metric.classes]\nuse = "classes"\n'
    monkeypatch.setattr(Network, "forward", lambda self, x: (self.body(x), None))
    monkeypatch.setattr(Seen, "compute", lambda self: float("nan"))
    evaluation, found = measured(training(text))
    assert "return no logits" in evaluation.failed["classes"]
    assert "NaN" in found.refused["seen"]
    assert set(found.values) == {"distance"}


def test_what_metrics_see_through_features_exists_for_metrics_only(training: Make) -> None:
    with pytest.raises(RecipeError, match="it exists for metrics only"):
        training(VAGAN.replace('[loss.kl]\nuse = "kl"', '[loss.kl]\nuse = "kl"\ninputs = { posterior = "embed" }'))


def test_metrics_that_do_not_exist_here_say_why(training: Make) -> None:
    text = GAN + METRICS + '[metric.greedy]\nuse = "greedy"\n[metric.classes]\nuse = "classes"\n'
    evaluation = prepare(training(text).model)
    assert "needs `x`, which only real examples have" in evaluation.unavailable["greedy"]
    assert "classes" not in evaluation.unavailable
    several = text.replace("[features.net]", '[features.other]\nuse = "network"\n[features.net]')
    with pytest.raises(RecipeError, match=r'several features; write `features = ` one of "other", "net"'):
        prepare(training(several).model)
    chosen = several.replace('use = "distance"', 'use = "distance"\nfeatures = "net"').replace(
        'use = "classes"', 'use = "classes"\nfeatures = "other"'
    )
    assert {m.name: m.features for m in prepare(training(chosen).model).measures if m.features} == {
        "distance": "net",
        "classes": "other",
    }
    with pytest.raises(RecipeError, match=r"no \[features.nat\].*did you mean `net`"):
        training(chosen.replace('features = "net"', 'features = "nat"'))


def record(found: Any, **more: Any) -> dict[str, Any]:
    return {"values": dict(found.values), "refused": dict(found.refused), "protocol": dict(found.protocol), **more}


def test_numbers_of_two_protocols_do_not_compare_and_the_reason_is_told(training: Make) -> None:
    a = record(measured(training(GAN + METRICS))[1])
    same = record(measured(training(GAN + METRICS))[1])
    assert compare(a, same, "distance") == (a["values"]["distance"], a["values"]["distance"])
    for change, words in (
        (("evaluate.samples=24",), "generated 20 against 24"),
        (("evaluate.seed=1",), "seed 0 against 1"),
        (("evaluate.split=train",), "split validation against train"),
    ):
        other = record(measured(training(GAN + METRICS, *change))[1])
        with pytest.raises(UserError, match=words):
            compare(a, other, "distance")
    fewer = record(measured(training(GAN + METRICS), examples(12))[1])
    with pytest.raises(UserError, match=r"data\.digest .* against .*examples 20 against 12"):
        compare(a, fewer, "distance")
    weights = json.loads(json.dumps(a))
    weights["protocol"]["features"]["net"]["weights"] = "ef01"
    with pytest.raises(UserError, match=r"features\.weights abcd against ef01"):
        compare(a, weights, "distance")
    compare(a, weights, "seen.real")  # which sees through no features
    with pytest.raises(UserError, match="without its protocol"):
        compare({**a, "protocol": {}}, {**a, "protocol": {}}, "distance")
    lines = sentences(a)
    assert lines[0].startswith("20 validation examples of digits, 20 generated")
    assert lines[1] == "distance through network: dim 4, weights abcd"


def test_the_best_checkpoint_is_by_what_the_recipe_names_or_by_what_suits_its_family(training: Make) -> None:
    elbo = '[metric.likelihood]\nuse = "elbo"\n[metric.mse]\nuse = "reconstruction-error"\n'
    assert best_by(prepare(training(VAGAN + elbo).model)) == "likelihood"
    assert best_by(prepare(training(VAGAN + elbo, "evaluate.best=mse").model)) == "mse"
    assert best_by(prepare(training(GAN).model)) == ""
    with pytest.raises(RecipeError, match=r"write best = one of kid\.mean, kid\.std"):
        prepare(training(GAN + '[metric.kid]\nuse = "kid"\n', "evaluate.best=kid").model)
    absent = prepare(training(GAN + elbo + METRICS, "evaluate.best=mse").model)
    assert "mse" in absent.unavailable
    assert best_by(absent) == ""


def test_measuring_changes_nothing_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever metrics and features draw or train, the weights of a run are bit-equal to those of one that measures nothing."""
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "cache"))
    chosen = ["train.steps=6", "train.evaluate_every=2", "report.samples=4", "evaluate.samples=60", "features.net.steps=2"]
    names = ("fid", "kid", "inception-score", "precision-recall", "linear-probe", "importance-weighted", "ppl")
    asked = [f"metric.{name}.use={name}" for name in names] + ["metric.kid.subset_size=20", "features.net.use=classifier"]
    found = []
    for extra in ([*chosen, *asked], ["train.steps=6", "report.samples=4", "metric=false", "evaluate.best="]):
        outcome = hybridgen.train("vagan-digits", extra, runs=tmp_path / "runs", registry=load_registry())
        found.append((outcome.values, load_checkpoint(latest(outcome.path / "checkpoints"))))  # type: ignore[arg-type]
    assert {"fid", "kid.mean", "ppl"} <= found[0][0].keys()
    for name, weight in found[0][1].weights.items():
        assert torch.equal(weight, found[1][1].weights[name]), name


# -- after training ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        hybridgen.train("ae-digits", ["train.steps=4", f"train.seed={seed}", "report.samples=4"], runs=folder)
    return folder


def test_a_run_is_measured_after_training_and_the_result_is_stored(runs: Path) -> None:
    run = sorted(runs.iterdir())[0]
    before = [e for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if e["event"] == "evaluation"][-1]
    result = hybridgen.evaluate(run, metrics=["reconstruction-error"])
    assert result["values"]["reconstruction-error"] == pytest.approx(before["values"]["reconstruction-error"], rel=1e-6)
    assert compare(before, result, "reconstruction-error")
    stored = newest(run)[0]
    assert stored["values"] == result["values"]
    assert stored["protocol"] == json.loads(json.dumps(result["protocol"]))
    everything = hybridgen.evaluate(run)
    assert {"reconstruction-error", "psnr"} <= everything["values"].keys()
    assert "there is no [discriminator]" in everything["unavailable"]["discriminator-accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.steps=3"], "train.steps can't be overridden here"),
        (["--metric", "psnrr"], "did you mean 'psnr'"),
        (["--best", "--step", "4"], "write one of them"),
        (["--step", "3"], "no checkpoint of step 3"),
        (["evaluate.smples=3"], "did you mean `samples`"),
        (["data.use=toy2d"], "the model was trained on images of 1x8x8"),
        (["data.split_seed=3"], "examples that the model was trained on"),
    ],
)
def test_what_is_wrong_with_an_evaluation(
    arguments: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(sorted(runs.iterdir())[0]), *arguments])
    assert message in capsys.readouterr().err


def test_evaluate_and_compare_print_values_protocols_and_refusals(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = sorted(runs.iterdir())[:2]
    for run in (a, b):
        with pytest.raises(SystemExit, match="0"):
            main(["evaluate", str(run), "--metric", "psnr"])
    out = capsys.readouterr().out
    assert "dB, higher" in out
    assert "180 validation examples of digits" in out
    with pytest.raises(SystemExit, match="0"):
        main(["compare", str(a), str(b)])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("psnr"))
    assert len(line.split()) == 5
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(b), "--metric", "psnr", "evaluate.split=train", "--json"])
    assert json.loads(capsys.readouterr().out)["protocol"]["split"] == "train"
    with pytest.raises(SystemExit, match="0"):  # the older one that agrees
        main(["compare", str(a), str(b)])
    assert next(x for x in capsys.readouterr().out.splitlines() if x.startswith("psnr")) == line
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(a), "--metric", "ssim", "evaluate.split=train"])
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(b), "--metric", "ssim"])
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(a), str(b), "--metric", "ssim"])
    assert "split train against validation" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(a), "--metric", "codebook"])


def test_protocols_are_flat_and_their_differences_symmetric(runs: Path) -> None:
    evaluation = holding(newest(sorted(runs.iterdir())[0]), "psnr")
    protocol = protocol_of(evaluation, "psnr")
    assert protocol["data.use"] == "digits"
    assert differences(protocol, protocol) == {}
    assert differences({"a": 1}, {"b": 1}) == {"a": (1, None), "b": (None, 1)}


def test_a_file_among_the_options_stands_in_the_protocol_by_its_content(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights.pth").write_bytes(b"one")
    first = _plain((tmp_path / "a" / "weights.pth", 3))
    assert first == _plain((tmp_path / "b" / "weights.pth", 3))
    (tmp_path / "b" / "weights.pth").write_bytes(b"other")
    assert first != _plain((tmp_path / "b" / "weights.pth", 3))


def test_a_labelled_sample_has_a_class_drawn_as_often_as_the_data_have_it(training: Make) -> None:
    state = training(GAN + METRICS, spec=LABELLED)
    evaluation = prepare(state.model, frequencies=[0.0] * 9 + [1.0])
    assert set(evaluation._labels(50, 0, torch.device("cpu"))["fake_label"].tolist()) == {9}
