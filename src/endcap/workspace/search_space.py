"""Overrides of which some are ranges in, what is fixed and what is searched out.

The grammar is Hydra's for sweeps: `key=choice(a,b)`, `key=interval(1,8)`, `key=int(interval(1,8))`,
`key=tag(log,interval(1e-4,1e-2))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from endcap.contracts.errors import InputError

_EXAMPLE = "training.learning_rate=tag(log,interval(1e-4,1e-2)) or model.output_embedding_dim=choice(33,65,97)"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[bool | int | float | str | None, ...]


@dataclass(frozen=True)
class Span:
    """Any number from `low` to `high`, both included; whole ones alone, and evenly on a logarithmic scale, if so asked."""

    low: float
    high: float
    is_whole: bool = False
    is_log: bool = False


@dataclass(frozen=True)
class SearchSpace:
    """`fixed` overrides as they were given, and the range of each key that is `searched`."""

    fixed: tuple[str, ...]
    searched: dict[str, Choice | Span]


def parse_search_space(overrides: Sequence[str]) -> SearchSpace:
    """Part overrides into fixed ones and ranges.

    Raises InputError when one can't be read, a range is empty, or nothing is to be searched.
    """
    parser = OverridesParser.create()
    fixed, searched = [], {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            first_line = str(error).partition("\n")[0]
            raise InputError(f"{text!r} is no override: {first_line}. Write key=value or {_EXAMPLE}.") from error
        if override.is_sweep_override():
            searched[override.key_or_group] = _dimension(override.value(), text)
        else:
            fixed.append(text)
    if not searched:
        raise InputError(
            f"Nothing is to be searched: none of {list(overrides)} is a range. Give one, such as {_EXAMPLE}."
        )
    return SearchSpace(tuple(fixed), searched)


def _dimension(sweep: Any, text: str) -> Choice | Span:
    if isinstance(sweep, ChoiceSweep):
        values = tuple(_plain(value, text) for value in sweep.list)
        if len(set(map(repr, values))) < max(2, len(values)):
            raise InputError(f"{text!r} offers {list(values)}; expected two different values or more.")
        return Choice(values)
    if isinstance(sweep, RangeSweep):
        values = tuple(_plain(value, text) for value in sweep.range())
        if len(values) < 2:
            raise InputError(f"{text!r} offers {list(values)}; expected two values or more.")
        return Choice(values)
    if not isinstance(sweep, IntervalSweep) or sweep.start is None or sweep.end is None:
        raise InputError(f"{text!r} is no range that can be searched. Write {_EXAMPLE}.")
    low, high, is_log = sweep.start, sweep.end, "log" in sweep.tags
    if not low < high or (is_log and low <= 0):
        above = " above 0" if is_log else ""
        raise InputError(f"{text!r} goes from {low} to {high}; expected a lower end{above} and a higher one.")
    return Span(float(low), float(high), isinstance(low, int) and isinstance(high, int), is_log)


def _plain(value: Any, text: str) -> bool | int | float | str | None:
    # A quoted string carries its text; dictionaries and lists have no place among choices.
    found = getattr(value, "text", value)
    if found is None or isinstance(found, bool | int | float | str):
        return found
    raise InputError(f"{text!r} offers {value!r}; expected numbers, texts, true or false.")
