"""The final report as files: text for mails and logs, SVG for pages."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from hybridgen.files import write_atomically
from hybridgen.report.render import report, summary
from hybridgen.report.state import State

WIDTH, HEIGHT = 100, 48


def save(folder: Path, state: State) -> None:
    """Write report.txt and report.svg into a run's folder."""
    text = Console(file=io.StringIO(), width=WIDTH, record=True, color_system=None, force_terminal=False)
    plain = State(**{**vars(state), "pictures": {}})  # half blocks are colour alone
    text.print(Group(report(plain, None, WIDTH, HEIGHT), Text(""), summary(state, folder, WIDTH)))
    write_atomically(folder / "report.txt", text.export_text().encode())
    picture = Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, color_system="truecolor")
    picture.print(Group(report(state, folder, WIDTH, HEIGHT), Text(""), summary(state, None, WIDTH)))
    title = f"hybridgen run {state.header.get('recipe', '')}".strip()
    svg = re.sub(r"@font-face \{.*?\}\s*", "", picture.export_svg(title=title), flags=re.DOTALL)  # fonts from elsewhere
    write_atomically(folder / "report.svg", svg.encode())
