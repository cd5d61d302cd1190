"""Numbers that change during a run: constant, ramp, cycle, start and stop; in steps or fractions of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Moment = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
"""An integer counts steps, a decimal number is a fraction of the run."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    from_: float = Field(0.0, alias="from")
    to: float
    over: Moment = 1.0
    shape: Literal["linear", "cosine"] = "linear"
    start: Moment = 0
    stop: Moment | None = None
    cycle: Moment | None = None
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5


def table_schema() -> dict[str, Any]:
    """The JSON Schema of a schedule's table."""
    return _Table.model_json_schema(by_alias=True)


TABLE_KEYS = ("from", "to", "over", "shape", "start", "stop", "cycle", "ratio")


@dataclass(frozen=True)
class Schedule:
    """A number as a function of the training step (from 1).

    From `start` on it goes from `begin` to `end` along `over` and stays there; before `start`, and from `stop` on, it
    is 0: the term is off, not only weak. With `cycle` it starts anew every so often, rising during the `ratio` first
    part of each cycle (Fu et al. 2019, arXiv:1903.10145).
    """

    begin: float
    end: float
    over: int | float = 0
    shape: str = "linear"
    start: int | float = 0
    stop: int | float | None = None
    cycle: int | float | None = None
    ratio: float = 0.5

    @property
    def constant(self) -> bool:
        return self.begin == self.end and self.start == 0 and self.stop is None

    def at(self, step: int, steps: int) -> float:
        """Its value in step `step` of a run of `steps`."""
        done = step - 1 - _steps(self.start, steps)
        if done < 0 or (self.stop is not None and step - 1 >= _steps(self.stop, steps)):
            return 0.0
        length: float = _steps(self.over, steps)
        if self.cycle is not None:
            period = max(_steps(self.cycle, steps), 1)
            done, length = done % period, self.ratio * period
        if self.begin == self.end or length <= 0 or done >= length:
            return self.end
        share = done / length
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.begin + (self.end - self.begin) * share

    def plain(self) -> Any:
        """As it stands in a recipe: a number, or a table without what is default."""
        if self.constant:
            return self.end
        table: dict[str, Any] = {"from": self.begin, "to": self.end}
        if self.cycle is not None:
            table |= {"cycle": self.cycle, "ratio": self.ratio}
        else:
            table["over"] = self.over
        if self.shape != "linear":
            table["shape"] = self.shape
        if self.start:
            table["start"] = self.start
        if self.stop is not None:
            table["stop"] = self.stop
        return table


def _steps(moment: int | float, steps: int) -> int:
    return moment if isinstance(moment, int) else round(moment * steps)


def schedule(value: Any) -> Schedule:
    """A schedule from a recipe's number or table. Raises ValueError that says what is wrong."""
    if isinstance(value, bool) or not isinstance(value, (int, float, dict)):
        raise ValueError("expected a number or a table such as { from = 0.0, to = 1.0, over = 0.2 }")
    if not isinstance(value, dict):
        if not math.isfinite(value):
            raise ValueError("expected a finite number")
        return Schedule(float(value), float(value))
    from pydantic import ValidationError

    try:
        table = _Table.model_validate({k: float(v) if k in ("from", "to") and type(v) is int else v for k, v in value.items()})
    except ValidationError as error:
        raise ValueError(_first(error, value)) from None
    if table.cycle is not None and "over" in value:
        raise ValueError("a cycle rises during the `ratio` first part of each; it has no `over`")
    begin = table.from_ if "from" in value else (table.to if not {"over", "cycle"} & value.keys() else 0.0)
    over = table.over if "over" in value or "from" in value else 0
    return Schedule(begin, table.to, over, table.shape, table.start, table.stop, table.cycle, table.ratio)


def _first(error: Any, value: dict[str, Any]) -> str:
    import difflib

    detail = error.errors(include_url=False)[0]
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, TABLE_KEYS, n=1)
        return f"a schedule has no `{key}`; " + (f"did you mean `{close[0]}`?" if close else f"it has: {', '.join(TABLE_KEYS)}")
    if detail["type"] == "missing":
        return f"a schedule needs `{key}`"
    if key in ("over", "start", "stop", "cycle"):
        return f"`{key}` = {value.get(key)!r}: expected steps (an integer) or a fraction of the run (0.0 to 1.0)"
    return f"`{key}`: {detail['msg'][0].lower()}{detail['msg'][1:]}"
