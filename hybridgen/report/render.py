"""Renderables of a report's state: what a person sees at a glance, from 60 columns on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hybridgen.protocol import sentences, stated
from hybridgen.report.state import State, Term
from hybridgen.report.strip import strip

SPARKS = "▁▂▃▄▅▆▇█"
STATUS = {
    "done": ("done", "bold green"),
    "interrupted": ("interrupted", "bold yellow"),
    "diverged": ("diverged", "bold red"),
    "error": ("stopped by an error", "bold red"),
}


def report(state: State, folder: Path | None, width: int, height: int, step: int | None = None) -> RenderableType:
    """The whole report for a console of `width` x `height`; what does not fit is left out from the least important."""
    header = header_lines(state, width)
    terms, health = term_table(state, width), health_lines(state)
    balance = [*balance_lines(state, width), *state_lines(state)]
    notes = [Text(f"  {note}", style="dim", overflow="fold") for note in state.header.get("notes", [])]
    evaluations = evaluation_table(state, width, rows=3)
    blocks: list[RenderableType] = [*header, progress_line(state, width, step), Text(f"  {state.busy}", style="cyan")]
    used = len(header) + 2 + 2 + len(state.terms()) + len(balance) + 2 * len(health) + 1
    if height - used >= 24:
        blocks[len(header) : len(header)] = notes
        used += len(notes)
    blocks += [terms, *balance, *health]
    if evaluations is not None and height - used >= 6:
        shown = min(len(state.evaluations), 3)
        blocks += [Text(""), evaluations]
        used += shown + 2
        told = measurement_lines(state)
        if state.end is None and height - used >= 14 + len(told):
            blocks += told
            used += len(told)
    room = height - used - 2
    picture = state.pictures.get("samples") or state.pictures.get("reconstructions")
    if folder is not None and picture and room >= 4:
        drawn = strip(folder / picture["path"], width, min(room, 14), picture.get("cells"))
        if drawn is not None:
            blocks += [Text(""), drawn]
    return Group(*blocks)


def header_lines(state: State, width: int) -> list[Text]:
    """Recipe, machine choices, parts with their parameters."""
    head = state.header
    if not head:
        return [Text("hybridgen", style="bold")]
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(str(head["recipe"]), style="bold")
    compiled = "compiled" if head["compile"] else "eager"
    title.append(f"  {head['device']} {head['precision']} {compiled}, seed {head['seed']}", style="dim")
    data = head["data"]
    shape = "x".join(str(side) for side in data["shape"])
    title.append(f"  {data['use']} {data['count']:,} of {shape}, batch {head['batch_size']}", style="dim")
    parts = Text(no_wrap=True, overflow="ellipsis")
    for path, used in head["parts"].items():
        count = head["parameters"].get(path, 0)
        parts.append(path.replace("discriminator.main", "discriminator"), style="cyan")
        parts.append(f" {used.partition(' ')[0]}{' ' + short(count) if count else ''}   ", style="dim")
    return [title, parts]


def progress_line(state: State, width: int, step: int | None = None) -> RenderableType:
    """Bar, steps, rate, time left: an estimate from the rate since the first row."""
    step = max(step or 0, state.step)
    rate = state.rate()
    figures = f"{step:,}/{state.steps:,}"
    speed = state.values.get("samples_per_second")
    if speed:
        figures += f"  {short(speed)} samples/s"
    if state.end is not None:
        figures += f"  {duration(state.end['seconds'])}"
    elif rate:
        figures += f"  {duration((state.steps - step) / rate)} left"
    elif not state.values:
        figures += "  starting (the first step may compile)" if state.header.get("compile") else "  starting"
    row = Table.grid(padding=(0, 1))
    room = max(width - len(figures) - 2, 8)
    row.add_row(ProgressBar(total=max(state.steps, 1), completed=step, width=min(room, 50)), Text(figures, no_wrap=True))
    return row


def term_table(state: State, width: int) -> RenderableType:
    """One row a loss term: value, weight, share of its player's sum, trend."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column("term", no_wrap=True, overflow="ellipsis", max_width=max(width // 3, 14))
    for name in ("value", "weight", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    trend = max(min(width - 58, 40), 0)
    if trend:
        table.add_column("trend", no_wrap=True)
    for term in state.terms():
        table.add_row(*_term_row(term, trend))
    return table


def _term_row(term: Term, trend: int) -> list[Text]:
    name = Text(term.name.replace(".discriminator", " (critic)"), style="magenta" if term.side == "discriminator" else "")
    off = not term.weight and term.weight is not None
    value = Text("off" if off and term.value is None else number(term.value), style="dim" if off else "bold")
    if term.value is not None and not math.isfinite(term.value):
        value.style = "bold red"
    share = Text(f"{term.share:.0%}" if term.share is not None else "", style="dim")
    row = [name, value, Text(number(term.weight), style="dim"), share]
    if not trend:
        return row
    waits = off and term.value is None and term.first is not None
    return [
        *row,
        Text(f"until step {term.first:,}" if waits else sparkline(term.trend, trend), style="dim" if waits else "cyan"),
    ]


def balance_lines(state: State, width: int) -> list[Text]:
    """How often each discriminator is right on real and on generated samples: a bar from blind (50 %) to won (100 %)."""
    lines = []
    for name, (real, fake) in state.critics().items():
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("balance " if name == "main" else f"balance {name} ", style="dim")
        for label, value in (("real", real), ("fake", fake)):
            if value is not None:
                filled = round(max(min(value, 1.0), 0.0) * 10) if math.isfinite(value) else 0
                colour = "yellow" if value > 0.95 else "green"
                line.append(f"{label} ", style="dim")
                line.append("━" * filled, style=colour)
                line.append("━" * (10 - filled), style="bright_black")
                line.append(f" {value:4.0%}  ")
        both = [v for v in (real, fake) if v is not None and math.isfinite(v)]
        mean = sum(both) / len(both) if both else 0.5
        words = ((0.95, "critic winning"), (0.6, "critic ahead"), (0.4, "even"))
        line.append(next((word for bound, word in words if mean > bound), "critic misled"), style="dim")
        lines.append(line)
    return lines


def state_lines(state: State) -> list[Text]:
    """What parts tell of their own state (a codebook's perplexity, an augmentation's probability): one line a part."""
    lines = []
    for part, values in state.states().items():
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{part.replace('discriminator.main', 'discriminator')} ", style="dim")
        line.append("  ".join(f"{name} {number(value)}" for name, value in values.items()))
        lines.append(line)
    return lines


def health_lines(state: State) -> list[Text]:
    """Only what is wrong."""
    return [Text(f"! {message}", style="bold yellow", overflow="fold") for message in state.health.values()]


def evaluation_table(state: State, width: int, rows: int) -> RenderableType | None:
    """The last evaluations, newest below; the best one marked. As many metrics as fit, first the one that names the best."""
    if not state.evaluations:
        return None
    best = state.best["metric"] if state.best is not None else ""
    names = sorted(state.evaluations[-1]["values"], key=lambda name: name != best)
    every = len(names)
    while len(names) > 1 and 10 + sum(max(len(n), 9) + 2 for n in names) > width:
        names.pop()
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column("held out", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    if len(names) < every:
        table.add_column(f"+{every - len(names)}", no_wrap=True)
    for event in state.evaluations[-rows:]:
        star = "*" if state.best is not None and state.best["step"] == event["step"] else " "
        table.add_row(f"{event['step']:,}{star}", *(number(event["values"].get(name)) for name in names))
    return table


def measurement_lines(state: State) -> list[Text]:
    """Under what the last evaluation was measured, what it could not measure and why, what to know of its numbers."""
    event = state.evaluations[-1]
    lines = [Text(line, style="dim", overflow="fold") for line in sentences(event)]
    lines += [
        Text(f"{name}: {text}", style="dim", overflow="fold")
        for name, said in event.get("remarks", {}).items()
        for text in said
    ]
    refused = event.get("refused", {}).items()
    return lines + [Text(f"no {name}: {why}", style="yellow", overflow="fold") for name, why in refused]


def values_table(state: State) -> RenderableType | None:
    """Every metric of the last evaluation with its unit and the better direction, one a row."""
    if not state.evaluations:
        return None
    event = state.evaluations[-1]
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column(f"measured at step {event['step']:,}", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit, better", style="dim")
    for name, value in event["values"].items():
        table.add_row(name, number(value), unit_of(event, name))
    return table


def unit_of(event: Mapping[str, Any], name: str) -> str:
    """The unit of a value and which way is better: "nats, higher"."""
    unit, better = stated(event.get("units", {}), name), stated(event.get("higher_is_better", {}), name)
    return ", ".join(text for text in (unit, "" if better is None else "higher" if better else "lower") if text)


def summary(state: State, folder: Path | None, width: int) -> RenderableType:
    """What remains on the screen when a run ends, however it ended."""
    end = state.end or {"status": "error", "message": "", "step": state.step, "seconds": state.seconds}
    word, style = STATUS.get(end["status"], (end["status"], "bold"))
    lines: list[RenderableType] = []
    title = Text(overflow="fold")
    title.append(word, style=style)
    title.append(f" after {end['step']:,} of {state.steps:,} steps in {duration(end['seconds'])}")
    lines.append(title)
    if end.get("message"):
        lines.append(Text(str(end["message"]), overflow="fold"))
    if state.best is not None:
        best = state.best
        lines.append(Text(f"best {best['metric']} {number(best['value'])} at step {best['step']:,}"))
    values = values_table(state)
    if values is not None:
        lines += [Text(""), values, *measurement_lines(state), Text("")]
    if folder is not None:
        lines.append(Text(f"run {folder}", overflow="fold"))
        for kind, drawn in state.pictures.items():
            lines.append(Text(f"{kind} {folder / drawn['path']}", style="dim", overflow="fold"))
        if end["status"] in ("interrupted", "error") and end["step"] < state.steps:
            lines.append(Text(f"go on with: hybridgen resume {folder}", overflow="fold"))
    return Group(*lines)


# -- small things ------------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[float], width: int) -> str:
    """A trend in `width` characters, between its own lowest and highest finite value."""
    if not values or width < 1:
        return ""
    chunk = max(len(values) / width, 1.0)
    columns = [values[int(i * chunk) : max(int((i + 1) * chunk), int(i * chunk) + 1)] for i in range(min(len(values), width))]
    means = [sum(c) / len(c) for c in columns if c]
    finite = [m for m in means if math.isfinite(m)]
    if not finite:
        return "x" * len(means)
    low, high = min(finite), max(finite)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((m - low) * scale)] if math.isfinite(m) else "x" for m in means)


def number(value: Any) -> str:
    """Four significant figures, never longer than nine characters."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def short(count: float) -> str:
    """1,234 as 1.2k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
