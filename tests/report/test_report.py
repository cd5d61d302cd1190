"""The report: drawn from events alone, on a terminal, in a pipe, as JSON, as files."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console as RichConsole

from hybridgen.events import EventLog, last_events, read_events, truncate_after
from hybridgen.report import fold, make_reporter, save_report
from hybridgen.report.console import Console
from hybridgen.report.render import duration, number, report, short, sparkline, summary
from hybridgen.report.strip import strip

START: dict[str, Any] = {
    "event": "start",
    "time": 0.0,
    "recipe": "vagan-digits",
    "description": "",
    "run": "runs/x",
    "steps": 1000,
    "batch_size": 128,
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
    "compile": False,
    "parameters": {"encoder": 123456, "decoder": 2345, "discriminator.main": 99},
    "parts": {"encoder": "conv (nets)", "decoder": "conv (nets)", "discriminator.main": "conv (nets)"},
    "passes": "encoder 1",
    "data": {"use": "digits", "count": 1617, "shape": [1, 8, 8], "classes": []},
    "terms": [
        {"name": "reconstruction", "side": "generator", "trains": ["encoder"]},
        {"name": "kl", "side": "generator", "trains": ["encoder"]},
        {"name": "adversarial", "side": "generator", "trains": ["decoder"], "first": 600},
        {"name": "adversarial.discriminator", "side": "discriminator", "trains": ["discriminator.main"]},
    ],
    "notes": ["compile off: on CPUs it seldom repays"],
}


def row(step: int, **extra: float) -> dict[str, Any]:
    values = {
        "loss.reconstruction": 60.0 / step,
        "loss.kl": 3.0,
        "loss.adversarial.discriminator": 1.2,
        "weight.reconstruction": 1.0,
        "weight.kl": 2.0,
        "weight.adversarial": 0.0,
        "weight.adversarial.discriminator": 1.0,
        "critic.main.real_accuracy": 0.9,
        "critic.main.fake_accuracy": 0.7,
        "samples_per_second": 4321.0,
        "data_share": 0.01,
        **extra,
    }
    return {"event": "row", "time": 1.0, "step": step, "seconds": step / 10, "values": values}


def evaluation(step: int, elbo: float) -> dict[str, Any]:
    values = {"elbo": elbo, "psnr": 20.0}
    return {
        "event": "evaluation",
        "time": 1.0,
        "step": step,
        "values": values,
        "units": {},
        "higher_is_better": {},
        "seconds": 0,
    }


END = {
    "event": "end",
    "time": 9.0,
    "status": "done",
    "step": 1000,
    "seconds": 75.0,
    "message": "",
    "checkpoint": "checkpoints/s",
}
BEST = {"event": "best", "time": 1, "step": 200, "metric": "elbo", "value": -5}
RUN = [START, row(1), row(100), evaluation(100, -9.0), row(200), evaluation(200, -5.0), BEST]


def drawn(events: list[dict[str, Any]], width: int, height: int, folder: Path | None = None) -> list[str]:
    console = RichConsole(file=io.StringIO(), width=width, height=height, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(report(fold(events), folder, width, height))
    return captured.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (120, 40), (200, 60)])
def test_it_fits_the_terminal(width: int, height: int, tmp_path: Path) -> None:
    Image.new("L", (300, 300), 90).save(tmp_path / "s.png")
    events = [*RUN, {"event": "samples", "time": 1, "step": 200, "path": "s.png", "kind": "samples"}]
    lines = drawn(events, width, height, tmp_path)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_it_says_what_a_person_wants_to_know() -> None:
    text = "\n".join(drawn(RUN, 100, 40))
    for piece in (
        "vagan-digits",
        "cpu fp32 eager",
        "123k",
        "200/1,000",
        "4.32k samples/s",
        "1 min 20 s left",
        "note" if False else "compile off",
    ):
        assert piece in text, piece
    line = next(x for x in text.splitlines() if x.startswith("kl"))
    assert "3" in line.split()
    assert "2" in line.split()
    assert "95%" in line  # 2 * 3 of 6.3: its share of the generator side's sum
    assert "█" in next(x for x in text.splitlines() if x.startswith("reconstruction"))
    assert "off       0         until step 600" in next(x for x in text.splitlines() if x.startswith("adversarial "))
    assert "real ━━━━━━━━━━  90%" in text
    assert "200*" in text  # the best evaluation so far
    assert "-5" in text


def test_health_appears_only_while_something_is_wrong() -> None:
    bad = {"event": "health", "time": 1, "step": 300, "code": "x.won", "message": "the discriminator has won"}
    assert "! the discriminator has won" in "\n".join(drawn([*RUN, bad], 100, 40))
    good = {**bad, "message": ""}
    assert "has won" not in "\n".join(drawn([*RUN, bad, good], 100, 40))


@pytest.mark.parametrize(
    ("status", "word"),
    [("done", "done"), ("interrupted", "interrupted"), ("diverged", "diverged"), ("error", "stopped by an error")],
)
def test_the_summary_tells_how_it_ended_and_what_to_do_next(status: str, word: str) -> None:
    console = RichConsole(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(summary(fold([*RUN, {**END, "status": status, "step": 700}]), Path("runs/x"), 100))
    text = captured.get()
    assert text.startswith(f"{word} after 700 of 1,000 steps in 1 min 15 s")
    assert "best elbo -5 at step 200" in text
    assert "runs/x" in text
    assert ("hybridgen resume" in text) == (status in ("interrupted", "error"))


def test_plain_lines_have_no_escape_codes_and_come_seldom() -> None:
    stream = io.StringIO()
    reporter = make_reporter("auto", folder=Path(), stream=stream)
    events = [START, *[row(step) for step in (1, 2, 3, 10, 11, 100, 101, 102)], evaluation(100, -9.0), END]
    for event in events:
        reporter.event(event)
    reporter.close()
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert [line.split()[0] for line in lines if line.startswith("step=")] == ["step=1/1000", "step=10/1000", "step=100/1000"]
    first = next(line for line in lines if line.startswith("step="))
    assert all(re.fullmatch(r"[\w./-]+=[-\w.+/]+", word) for word in first.split()), first
    assert any(line.startswith("evaluation step=100/1000 elbo=-9") for line in lines)
    assert "end status=done step=1000 time=1 min 15 s" in lines


def test_json_lines_are_the_events() -> None:
    stream = io.StringIO()
    reporter = make_reporter("jsonl", folder=Path(), stream=stream)
    for event in [START, row(1, **{"loss.kl": math.nan}), END]:
        reporter.event(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "row", "end"]
    assert lines[1]["values"]["loss.kl"] == "nan"


def test_quiet_tells_only_what_is_wrong() -> None:
    stream = io.StringIO()
    reporter = make_reporter("quiet", folder=Path(), stream=stream)
    for event in [*RUN, {"event": "health", "step": 3, "code": "c", "message": "look here"}, END]:
        reporter.event(event)
    assert stream.getvalue() == "hybridgen: step 3: look here\n"


def test_the_terminal_report_draws_in_place_and_leaves_the_summary(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    reporter = make_reporter("auto", folder=tmp_path, stream=stream)
    assert isinstance(reporter, Console)
    for event in [*RUN, END]:
        reporter.event(event)
        reporter.progress(event.get("step", 0))
    reporter.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "done after 1,000 of 1,000 steps" in text
    assert "vagan-digits" in text


def test_a_record_draws_the_same_report_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "metrics.jsonl")
    for event in [*RUN, row(300, **{"loss.kl": math.inf}), END]:
        log.append(event)
    log.close()
    save_report(tmp_path)
    text = (tmp_path / "report.txt").read_text()
    assert "done after 1,000 of 1,000 steps" in text
    assert "inf" in text
    assert "\x1b" not in text
    svg = (tmp_path / "report.svg").read_text()
    assert svg.startswith("<svg")
    assert "@font-face" not in svg
    assert "url(http" not in svg, "looking at it must load nothing"
    assert "vagan-digits" in svg
    before = text
    save_report(tmp_path)
    assert (tmp_path / "report.txt").read_text() == before


def test_a_torn_record_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = EventLog(path)
    for event in RUN:
        log.append(event)
    log.close()
    path.write_text(path.read_text()[:-30])
    assert len(read_events(path)) == len(RUN) - 1
    truncate_after(path, 100)
    assert [e.get("step") for e in read_events(path)] == [None, 1, 100, 100]
    assert [e["event"] for e in last_events(path)][-1] == "evaluation"
    assert last_events(tmp_path / "nowhere") == []


def test_a_strip_shows_two_pixels_a_character(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 4))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((0, 1), (0, 255, 0))
    image.save(tmp_path / "a.png")
    text = strip(tmp_path / "a.png", 20, 10)
    assert text is not None
    assert text.plain == "▀▀▀\n▀▀▀\n"
    style = str(text.spans[0].style)
    assert "#ff0000" in style
    assert "#00ff00" in style
    assert strip(tmp_path / "nowhere.png", 20, 10) is None
    (tmp_path / "b.png").write_bytes(b"not a picture")
    assert strip(tmp_path / "b.png", 20, 10) is None


def test_small_words() -> None:
    assert [number(v) for v in (None, 0, 0.12345, 1234.5, 1e-9, math.nan)] == ["", "0", "0.1235", "1,234", "1.00e-09", "nan"]
    assert [short(v) for v in (999, 1234, 5.6e6)] == ["999", "1.23k", "5.6M"]
    assert [duration(v) for v in (3, 75, 3700)] == ["3 s", "1 min 15 s", "1 h 01 min"]
    assert sparkline([0, 1, 2, 3], 4) == "▁▃▆█"
    assert sparkline([1, 1], 5) == "▁▁"
    assert sparkline([math.nan, 1.0], 5) == "x▁"
    assert len(sparkline(list(range(1000)), 20)) == 20


@pytest.mark.parametrize(("width", "height", "across", "down"), [(80, 10, 8, 2), (60, 4, 6, 1), (200, 40, 9, 1)])
def test_a_grid_is_laid_out_anew_with_the_pixels_of_the_data(
    width: int, height: int, across: int, down: int, tmp_path: Path
) -> None:
    """Nine pictures 1 8 8, enlarged in the file: shown side by side, each pixel as it was."""
    import torch

    from hybridgen.data import SampleSpec
    from hybridgen.pictures import cells, save_samples

    spec = SampleSpec("image", (1, 8, 8), 9, activation="tanh")
    x = torch.linspace(-1, 1, 9).reshape(9, 1, 1, 1).expand(9, 1, 8, 8)
    save_samples(tmp_path / "s.png", x, spec)
    text = strip(tmp_path / "s.png", width, height, cells(spec, 9))
    assert text is not None
    lines = text.plain.rstrip("\n").split("\n")
    assert len(lines[0]) == across * 9 - 1
    assert len(lines) == -(-(down * 9 - 1) // 2)
    assert "#808080" in " ".join(str(span.style) for span in text.spans) or across < 5


def test_pairs_of_a_comparison_are_cells(tmp_path: Path) -> None:
    import torch

    from hybridgen.data import SampleSpec
    from hybridgen.pictures import cells, save_comparison

    spec = SampleSpec("image", (1, 8, 8), 12, activation="tanh")
    x, recon = torch.full((12, 1, 8, 8), -1.0), torch.full((12, 1, 8, 8), 1.0)
    save_comparison(tmp_path / "r.png", x, recon, spec)
    text = strip(tmp_path / "r.png", 120, 20, cells(spec, 12, pairs=True))
    assert text is not None
    styles = [str(span.style) for span in text.spans[:8]]
    assert all("#000000 on #000000" in style for style in styles)  # originals above
    lines = text.plain.rstrip("\n").split("\n")
    assert len(lines) == 9
    assert "#ffffff" in str(text.spans[-10].style)


@pytest.mark.parametrize(
    ("real", "fake", "word"),
    [(0.97, 0.99, "critic winning"), (0.9, 0.7, "critic ahead"), (0.5, 0.5, "even"), (0.5, 0.1, "critic misled")],
)
def test_the_balance_in_words(real: float, fake: float, word: str) -> None:
    shown = {"critic.main.real_accuracy": real, "critic.main.fake_accuracy": fake}
    assert word in "\n".join(drawn([START, row(100, **shown)], 100, 40))
