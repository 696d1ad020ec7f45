"""How long a schedule says that what is left will take. What it runs and leaves out: test_backfill.py."""

from __future__ import annotations

from collections import Counter

import pytest

from endcap.flows.schedule import duration, estimate_left_s


def test_the_estimate_knows_what_can_run_side_by_side():
    seconds = {"events": [2.0, 4.0], "daily": [1.0]}
    assert estimate_left_s(seconds, Counter(daily=10), {"events"}, 1) == pytest.approx(10)
    assert estimate_left_s(seconds, Counter(daily=10), {"events"}, 2) == pytest.approx(5)
    assert estimate_left_s(seconds, Counter(events=10, daily=10), {"events"}, 2) == pytest.approx(30)
    assert estimate_left_s(seconds, Counter(windows=3), set(), 1) == pytest.approx(7)  # the mean of all is 7/3
    assert estimate_left_s(seconds, Counter(), set(), 1) == 0


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (61, "61 s"), (180, "3 min"), (7500, "2 h 5 min")])
def test_durations_for_people(seconds, said):
    assert duration(seconds) == said
