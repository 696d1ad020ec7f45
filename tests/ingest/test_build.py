from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.contracts.events import (
    EVENTS,
    IDENTITIES,
    IDENTITIES_TABLE,
    LANDED,
    LANDED_TABLE,
    OPEN_SESSIONS,
    QUARANTINE,
)
from endcap.ingest import build, landing
from endcap.ingest.quality import IngestSettings
from endcap.workspace import tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
DAY_ONE = date(2026, 1, 1)
DAY_ONE_US = (DAY_ONE - date(1970, 1, 1)).days * DAY_US
SETTINGS = IngestSettings()

Event = tuple[str, str, int]
"""Id, user, and microseconds after the first midnight."""


def day_of(event: Event) -> str:
    return str(date.fromordinal(DAY_ONE.toordinal() + event[2] // DAY_US))


def landed(events: Iterable[Event], batch: str = "b") -> pa.Table:
    rows = [
        {
            "batch": batch,
            "row_number": place,
            "event_id": event_id,
            "user_id": user,
            "item_id": "i",
            "event_type": "view_item",
            "ts_us": DAY_ONE_US + at_us,
            "event_date": date.fromordinal(DAY_ONE.toordinal() + at_us // DAY_US),
        }
        for place, (event_id, user, at_us) in enumerate(events)
    ]
    return pa.Table.from_pylist(rows, schema=LANDED_TABLE.schema)


class Shop:
    """A draft whose landed rows change, arrival by arrival."""

    def __init__(self, connection: Backend, path: Path, settings: IngestSettings = SETTINGS) -> None:
        self.connection = connection
        self.draft = Draft(Workspace.init(path))
        self.settings = settings

    def hold(self, *batches: pa.Table) -> list[build.DateResult]:
        """Make these rows all that is landed, and build the dates whose rows changed."""
        rows = pa.concat_tables([LANDED_TABLE.schema.empty_table(), *batches])
        dates = {str(day) for day in rows["event_date"].to_pylist()} | self.draft.partition_rows(LANDED).keys()
        write = self.draft.replace(LANDED, rows, sorted(dates))
        return self.build({*write.replaced, *write.removed})

    def build(self, dates: Iterable[str]) -> list[build.DateResult]:
        return build.build_dates(self.connection, self.draft, dates, self.settings, lambda what, share: None)

    def table(self, name: str) -> pa.Table:
        return tables.read_table(self.draft.workspace, name, version=self.draft.versions[name])

    def sessions(self) -> list[list[str]]:
        found = self.table(EVENTS).group_by("session_id").aggregate([("event_id", "list")])
        return sorted(sorted(ids) for ids in found["event_id_list"].to_pylist())


@pytest.fixture
def shop(connection: Backend, tmp_path: Path) -> Shop:
    return Shop(connection, tmp_path / "shop")


MIDNIGHT: Event = ("m", "u", DAY_US)


def test_exactly_the_gap_across_midnight_still_belongs(shop: Shop) -> None:
    shop.hold(landed([("a", "u", DAY_US - 30 * MINUTE_US), MIDNIGHT]))
    assert shop.sessions() == [["a", "m"]]
    shop.hold(landed([("a", "u", DAY_US - 30 * MINUTE_US - 1), MIDNIGHT]))
    assert shop.sessions() == [["a"], ["m"]]


def test_yesterdays_open_session_goes_on_when_today_arrives_later(shop: Shop) -> None:
    yesterday = [("a", "u", DAY_US - 20 * MINUTE_US), ("b", "v", DAY_US - 40 * MINUTE_US)]
    shop.hold(landed(yesterday))
    assert [row["user_id"] for row in shop.table(OPEN_SESSIONS).to_pylist()] == ["u"]
    before = shop.table(EVENTS)
    (built,) = shop.hold(landed([*yesterday, ("c", "u", DAY_US + 5 * MINUTE_US), ("d", "v", DAY_US)]))
    assert (built.date, built.num_events, built.num_sessions) == ("2026-01-02", 2, 1)
    assert shop.sessions() == [["a", "c"], ["b"], ["d"]]
    assert shop.table(EVENTS).slice(0, 2).equals(before)


def test_a_late_event_rebuilds_as_far_as_open_sessions_change(shop: Shop) -> None:
    wide = Shop(shop.connection, shop.draft.workspace.path / "wide", IngestSettings(session_gap_minutes=1440))
    days = [(f"e{day}", "u", day * DAY_US + DAY_US // 2) for day in (1, 2, 3, 5, 6)]
    wide.hold(landed(days))
    assert wide.sessions() == [["e1", "e2", "e3"], ["e5", "e6"]]
    built = wide.hold(landed([*days, ("late", "u", DAY_US // 2)]))
    # The chain is one day long from event to event, and torn before the fifth day.
    assert [result.date for result in built if result.changed] == [f"2026-01-0{day}" for day in (1, 2, 3, 4)]
    assert wide.sessions() == [["e1", "e2", "e3", "late"], ["e5", "e6"]]


def test_a_bridge_that_goes_tears_the_session_again(shop: Shop) -> None:
    ends = [("a", "u", DAY_US - 40 * MINUTE_US), ("c", "u", DAY_US + 10 * MINUTE_US)]
    bridge = ("b", "u", DAY_US - 15 * MINUTE_US)
    shop.hold(landed([*ends, bridge]))
    assert shop.sessions() == [["a", "b", "c"]]
    shop.hold(landed(ends))
    assert shop.sessions() == [["a"], ["c"]]


def test_a_date_that_goes_takes_its_events_along(shop: Shop) -> None:
    shop.hold(landed([("a", "u", 0), ("b", "u", 3 * DAY_US)]))
    shop.hold(landed([("b", "u", 3 * DAY_US)]))
    assert shop.table(EVENTS)["event_id"].to_pylist() == ["b"]


def test_an_id_of_two_batches_is_one_event_the_first_ones(shop: Shop) -> None:
    (built,) = shop.hold(landed([("a", "v", 5), ("b", "u", 6)], "b2"), landed([("a", "u", 5)], "b1"))
    assert (built.num_landed, built.num_events, built.num_repeated) == (3, 2, 1)
    assert shop.table(EVENTS).select(["event_id", "user_id"]).to_pylist() == [
        {"event_id": "a", "user_id": "u"},
        {"event_id": "b", "user_id": "u"},
    ]


def test_bots_go_to_quarantine_for_the_day_alone(connection: Backend, tmp_path: Path) -> None:
    shop = Shop(connection, tmp_path / "shop", IngestSettings(max_events_per_user_per_day=2))
    many = [(f"e{place}", "bot", place) for place in range(3)]
    calm = [("f", "bot", DAY_US), ("g", "u", 1), ("h", "u", 2)]
    built = shop.hold(landed([*many, *calm]))
    assert [(result.num_events, result.num_bots) for result in built] == [(2, 3), (1, 0)]
    assert sorted(shop.table(EVENTS)["event_id"].to_pylist()) == ["f", "g", "h"]
    bad = shop.table(QUARANTINE).to_pylist()
    assert [(row["batch"], row["row_number"], row["reason"]) for row in bad] == [
        ("bots/2026-01-01", place, "bot") for place in (0, 1, 2)
    ]
    assert msgspec.json.decode(bad[0]["raw"])["event_id"] == "e0"
    shop.hold(landed(calm))
    assert shop.table(QUARANTINE).num_rows == 0


def test_a_guests_events_count_as_the_users(shop: Shop) -> None:
    known = pa.Table.from_pylist([{"guest_id": "g", "user_id": "u"}], schema=IDENTITIES_TABLE.schema)
    shop.draft.write(IDENTITIES, known)
    shop.hold(landed([("a", "g", 0), ("b", "u", MINUTE_US), ("c", "other", 0)]))
    assert shop.sessions() == [["a", "b"], ["c"]]
    assert set(shop.table(EVENTS)["user_id"].to_pylist()) == {"u", "other"}


def test_dates_are_built_in_groups_without_a_difference(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = landed([(f"e{place}", "uv"[place % 2], place * 29 * MINUTE_US) for place in range(200)])
    shop.hold(rows)
    monkeypatch.setattr(landing, "ROWS_PER_GROUP", 1)
    single = Shop(shop.connection, tmp_path / "single")
    single.hold(rows)
    assert single.table(EVENTS).equals(shop.table(EVENTS))
    assert single.table(OPEN_SESSIONS).equals(shop.table(OPEN_SESSIONS))


near_midnights = st.tuples(
    st.sampled_from("uv"),
    st.sampled_from([1, 2, 3]),
    st.integers(-3, 3).map(lambda steps: steps * 30 * MINUTE_US),
    st.integers(-1, 1),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), times=st.lists(near_midnights, min_size=2, max_size=25))
def test_any_order_of_arrival_gives_the_sessions_of_a_single_build(
    connection: Backend, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, times: list[Any]
) -> None:
    events = [(f"e{place}", user, day * DAY_US + steps + off) for place, (user, day, steps, off) in enumerate(times)]
    arrivals = data.draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    folder = tmp_path_factory.mktemp("order")
    bit_by_bit, at_once = Shop(connection, folder / "bits"), Shop(connection, folder / "once")
    for last in sorted(set(arrivals)):
        here = [event for event, arrival in zip(events, arrivals, strict=True) if arrival <= last]
        bit_by_bit.hold(landed(sorted(here)))
    at_once.hold(landed(sorted(events)))
    for name in (EVENTS, OPEN_SESSIONS):
        assert bit_by_bit.table(name).equals(at_once.table(name))
    expected = []
    for _, own in itertools.groupby(sorted(events, key=lambda e: (e[1], e[2], e[0])), key=lambda e: e[1]):
        before = None
        for event in own:
            if before is None or event[2] - before > 30 * MINUTE_US:
                expected.append([])
            expected[-1].append(event[0])
            before = event[2]
    assert at_once.sessions() == sorted(sorted(ids) for ids in expected)


@pytest.fixture
def published(shop: Shop) -> Shop:
    shop.hold(landed([("a", "u", DAY_US - MINUTE_US), ("b", "u", DAY_US + MINUTE_US)]))
    dataset = tables.Dataset(
        "toy", "run", shop.draft.versions, build=build.build_digest(SETTINGS), settings=SETTINGS.built_with
    )
    tables.publish_dataset(shop.draft.workspace, dataset)
    return shop


def test_building_one_date_again_changes_nothing(published: Shop) -> None:
    workspace = published.draft.workspace
    before = tables.current_dataset(workspace)
    assert build.landed_dates(workspace) == ["2026-01-01", "2026-01-02"]
    result = build.build_date(workspace, "2026-01-02", SETTINGS)
    assert (result.num_events, result.changed, result.open_changed) == (1, False, False)
    assert tables.current_dataset(workspace) == before


def test_one_date_is_built_with_other_settings_and_put_in_force(published: Shop) -> None:
    workspace = published.draft.workspace
    result = build.build_date(workspace, "2026-01-01", IngestSettings(max_events_per_user_per_day=0), run_id="again")
    assert (result.num_bots, result.changed, result.open_changed) == (1, True, True)
    assert tables.read_table(workspace, EVENTS)["event_id"].to_pylist() == ["b"]
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.run_id == "again"
    # Dates differ, and these settings are the ones chosen last.
    assert dataset.build == ""
    assert build.settings_in_force(workspace).max_events == 0


def test_settings_and_their_digest_come_into_force_with_the_date(
    published: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, narrow = published.draft.workspace, IngestSettings(session_gap_minutes=1)
    seen = []
    publish = tables.publish_dataset
    monkeypatch.setattr(
        tables, "publish_dataset", lambda workspace, dataset: (publish(workspace, dataset), seen.append(dataset))
    )
    build.build_date(workspace, "2026-01-01", narrow)
    # What is left open is as in force: the other date gets the same gap.
    build.build_date(workspace, "2026-01-02", IngestSettings(), are_others_built=True)
    own = build.build_digest(narrow)
    assert [(one.build, one.settings["session_gap_minutes"]) for one in seen] == [("", 1), (own, 1)]
    build.build_date(workspace, "2026-01-01", narrow)
    assert len(seen) == 2


def test_a_dates_digest_covers_what_it_depends_on_and_no_more(published: Shop) -> None:
    workspace = published.draft.workspace

    def digests(settings: IngestSettings = SETTINGS) -> list[str]:
        return [build.date_inputs_digest(workspace, day, settings) for day in ("2026-01-01", "2026-01-02")]

    def publish(change: Callable[[Draft], Any]) -> None:
        draft = Draft(workspace)
        change(draft)
        tables.publish_dataset(workspace, tables.Dataset("toy", "run", draft.versions))

    first, second = digests()
    assert digests(IngestSettings(late_days=9)) == [first, second]
    assert not set(digests(IngestSettings(session_gap_minutes=7))) & {first, second}
    stranger = pa.Table.from_pylist([{"guest_id": "x", "user_id": "y"}], schema=IDENTITIES_TABLE.schema)
    publish(lambda draft: draft.write(IDENTITIES, stranger))
    assert digests() == [first, second]
    publish(lambda draft: draft.replace(OPEN_SESSIONS, draft_rows(draft, OPEN_SESSIONS).slice(0, 0), ["2026-01-01"]))
    assert digests()[0] == first
    assert digests()[1] != second
    publish(lambda draft: draft.replace(LANDED, landed([("z", "u", 0)]), ["2026-01-01"]))
    assert digests()[0] != first


def draft_rows(draft: Draft, name: str) -> pa.Table:
    return tables.read_table(draft.workspace, name, version=draft.versions[name])


def test_nothing_to_build_before_an_ingest(tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path)
    assert build.landed_dates(workspace) == []
    with pytest.raises(InputError, match="holds no data yet"):
        build.build_date(workspace, "2026-01-01", SETTINGS)


def test_times_of_events_are_those_landed(shop: Shop) -> None:
    shop.hold(landed([("a", "u", DAY_US - 1)]))
    assert pc.max(shop.table(EVENTS)["ts_us"]).as_py() == DAY_ONE_US + DAY_US - 1
