"""What can go wrong, in words for people.

Every error that a person can cause or mend is a `HybridgenError`; anything else that reaches the console is our own bug
and keeps its traceback. `exit_code` is what the command line returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it stands, what it is, and what to write instead."""

    what: str  # "loss 'kl' has no option 'fre'"
    where: str = ""  # "recipes/mine.toml:14", "command line", ...
    path: str = ""  # "loss.kl.fre"
    hint: str = ""  # "did you mean `free`? (>= 0, default 0.1)"
    plugin: str = ""  # the plugin it belongs to, "losses"

    def __str__(self) -> str:
        start = "  ".join(part for part in (self.where, self.path) if part)
        text = f"{start}: {self.what}" if start else self.what
        if self.hint:
            text += f"; {self.hint}"
        return f"{text} [plugin {self.plugin}]" if self.plugin else text


class HybridgenError(Exception):
    """The root of what hybridgen raises on purpose."""

    exit_code = 1


class UserError(HybridgenError):
    """Something in the input (recipe, command line, data, run folder) has to change."""

    exit_code = 2


class RecipeError(UserError):
    """Everything that is wrong with a recipe, at once, in `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the recipe:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class PluginError(UserError):
    """A plugin that a recipe needs can't be used; the message holds the cause."""


class DataError(UserError):
    """The data at hand can't be read as the recipe asks."""


class RunError(UserError):
    """A run folder or a checkpoint can't be used as asked."""


class UnavailableError(UserError):
    """The model at hand cannot offer what was asked of it; the message says what would make it possible."""


class Unmeasurable(UserError):  # noqa: N818  (an answer, told beside the metrics that could be measured)
    """What a metric raises where its number would mean nothing: too few samples, features that never vary.

    The message says why and what would mend it; the metric is asked again at the next evaluation.
    """


class DivergedError(HybridgenError):
    """A loss term or a gradient became NaN or infinite; the message names the term, the step and the last good state."""

    exit_code = 3

    def __init__(self, message: str, *, step: int, term: str) -> None:
        super().__init__(message)
        self.step = step
        self.term = term


class Interrupted(HybridgenError):  # noqa: N818  (an interruption is no error, but it does end the run)
    """The user (or the system) asked the run to stop; what was trained is saved."""

    exit_code = 130
