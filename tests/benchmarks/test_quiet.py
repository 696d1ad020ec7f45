"""Rounds that other machines disturb are measured again, and a machine that is never quiet doesn't hold the benchmark up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from benchmarks.performance.quiet import Ticks, processor_ticks, quietest


def machine(stolen_percents: Iterable[int]) -> Callable[[], Ticks]:
    """Tells the ticks before and after each round."""
    told, total, stolen = [], 0, 0
    for percent in stolen_percents:
        told.append(Ticks(stolen, total))
        total, stolen = total + 100, stolen + percent
        told.append(Ticks(stolen, total))
    ticks = iter(told)
    return lambda: next(ticks)


def numbers() -> Callable[[], int]:
    rounds = iter(range(100))
    return lambda: next(rounds)


def test_a_quiet_machine_is_asked_once() -> None:
    assert quietest(numbers(), 3, read_ticks=machine([0, 1, 0])) == [0, 2, 1]


def test_disturbed_rounds_are_measured_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert quietest(numbers(), 2, read_ticks=machine([30, 0, 12, 1])) == [1, 3]
    assert capsys.readouterr().err.count("once more") == 2


def test_the_least_disturbed_count_where_none_is_quiet() -> None:
    assert quietest(numbers(), 2, read_ticks=machine([30, 5, 12, 7, 40, 6])) == [1, 5]


def test_ticks_of_the_whole_machine(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 1 5 80 2 0 1 4 7 0\ncpu0 5 0 2 40 1 0 0 2 3 0\n", encoding="ascii")
    assert processor_ticks(stat) == Ticks(stolen=4, all=103)
    assert Ticks(14, 203).stolen_percent(processor_ticks(stat)) == 10.0
    assert Ticks(14, 203).stolen_percent(Ticks(14, 203)) == 0.0
    before = processor_ticks()
    assert processor_ticks().all >= before.all > 0
