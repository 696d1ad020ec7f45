from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.ingest.sessions import with_sessions

MINUTE_US = 60_000_000
SCHEMA = pa.schema([("event_id", pa.string()), ("user_id", pa.string()), ("ts_us", pa.int64())])

Sessionize = Callable[..., dict[str, str]]


@pytest.fixture
def sessionize(connection: Backend) -> Sessionize:
    def run(events: list[tuple[str, str, int]], gap_minutes: int = 30) -> dict[str, str]:
        rows = [dict(zip(SCHEMA.names, event, strict=True)) for event in events]
        found = with_sessions(ibis.memtable(pa.Table.from_pylist(rows, schema=SCHEMA)), gap_minutes=gap_minutes)
        return {row["event_id"]: row["session_id"] for row in connection.to_pyarrow(found).to_pylist()}

    return run


def naive(events: list[tuple[str, str, int]], gap_us: int) -> set[frozenset[str]]:
    sessions: list[list[tuple[str, str, int]]] = []
    for _, own in groupby(sorted(events, key=lambda e: (e[1], e[2], e[0])), key=lambda e: e[1]):
        before: int | None = None
        for event in own:
            if before is None or event[2] - before > gap_us:
                sessions.append([])
            sessions[-1].append(event)
            before = event[2]
    return {frozenset(event[0] for event in session) for session in sessions}


def grouped(sessions: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(e for e, other in sessions.items() if other == session) for session in sessions.values()}


def test_exactly_the_gap_still_belongs_and_a_microsecond_more_does_not(sessionize: Sessionize) -> None:
    start = 1_000_000_000
    found = sessionize([("a", "u", start), ("b", "u", start + 30 * MINUTE_US), ("c", "u", start + 60 * MINUTE_US + 1)])
    assert found["a"] == found["b"] != found["c"]


def test_midnight_does_not_end_a_session(sessionize: Sessionize) -> None:
    midnight = 1_291_248_000_000_000
    found = sessionize([("a", "u", midnight - 1), ("b", "u", midnight), ("c", "u", midnight + MINUTE_US)])
    assert len(set(found.values())) == 1


def test_users_do_not_share_sessions(sessionize: Sessionize) -> None:
    found = sessionize([("a", "u", 0), ("b", "v", 0)])
    assert found["a"] != found["b"]


def test_ties_stay_together_whatever_the_order_of_rows(sessionize: Sessionize) -> None:
    events = [("a", "u", 0), ("b", "u", 0), ("c", "u", 0), ("d", "u", 31 * MINUTE_US)]
    assert sessionize(events) == sessionize(events[::-1])
    assert grouped(sessionize(events)) == {frozenset("abc"), frozenset("d")}


def test_the_gap_can_be_set(sessionize: Sessionize) -> None:
    events = [("a", "u", 0), ("b", "u", 10 * MINUTE_US)]
    assert len(set(sessionize(events, gap_minutes=10).values())) == 1
    assert len(set(sessionize(events, gap_minutes=9).values())) == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.tuples(st.sampled_from("uvw"), st.integers(0, 8), st.integers(-1, 1)), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_equals_the_naive_definition(sessionize: Sessionize, times: list[tuple[str, int, int]], order: Any) -> None:
    # Multiples of the gap and one microsecond beside them: ties and edges are the rule here.
    events = [(f"e{i}", user, steps * 30 * MINUTE_US + off) for i, (user, steps, off) in enumerate(times)]
    shuffled = events.copy()
    order.shuffle(shuffled)
    found = sessionize(shuffled)
    assert grouped(found) == naive(events, 30 * MINUTE_US)
    assert found == sessionize(events)
