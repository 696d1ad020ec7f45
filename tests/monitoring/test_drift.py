"""Drift numbers of days written by hand: bins, rates, lag, and that measuring twice changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from endcap.contracts.errors import InputError
from endcap.contracts.events import BATCHES, DRIFT, DRIFT_DAYS, EVENTS, LANDED, TABLES, US_PER_DAY
from endcap.contracts.reporting import Silent
from endcap.monitoring.drift import measure_drift
from endcap.workspace import tables
from endcap.workspace.layout import Workspace
from tests.monitoring.conftest import event, write

DAY_0 = (date(2020, 1, 1) - date(1970, 1, 1)).days * US_PER_DAY
HOUR = 3_600_000_000

MakeEvent = Callable[..., dict[str, Any]]
WriteTables = Callable[..., dict[str, int]]


def newest(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables.read_table(
        workspace, name, version=tables.table_version(workspace, name)
    ).to_pylist()
    return found


def numbers(workspace: Workspace) -> dict[tuple[int, str, str], float]:
    """Hours since the first midnight, feature (of a day with `day:` before it), statistic -> value."""
    hours = [(row["hour"], row["feature"], row["statistic"], row["value"]) for row in newest(workspace, DRIFT)]
    for row in newest(workspace, DRIFT_DAYS):
        midnight = (row["event_date"] - date(1970, 1, 1)).days * US_PER_DAY
        hours.append((midnight, f"day:{row['feature']}", row["statistic"], row["value"]))
    return {((hour - DAY_0) // HOUR, feature, statistic): value for hour, feature, statistic, value in hours}


def smoothed(reference: list[int], actual: list[int]) -> float:
    """The index as scipy's two relative entropies, half a row added."""
    q, p = [r + 0.5 for r in reference], [a + 0.5 for a in actual]
    return float(entropy(p, q) + entropy(q, p))


def priced(make_event: MakeEvent, number: int, ts_us: int, price: int, **changes: Any) -> dict[str, Any]:
    return make_event(number, ts_us, price=Decimal(price), value=Decimal(price), **changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Views for 1 to 20 on the first day; on the second 3 cheap ones at 00:10, a dear one of an unseen item at 02:10.

    Not to be changed: take `two_days`.
    """
    workspace = Workspace.init(tmp_path_factory.mktemp("drift") / "shop")
    rows = [priced(event, n, DAY_0 + n * HOUR, n + 1, item_id=f"i{n % 2}") for n in range(20)]
    second = DAY_0 + US_PER_DAY + HOUR // 6
    rows += [priced(event, 20 + n, second + n, 2, item_id="i0") for n in range(3)]
    rows.append(priced(event, 30, second + 2 * HOUR, 99, item_id="new", currency=None, event_type="view_item"))
    write(workspace, {EVENTS: rows})
    measure_drift(workspace, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 2))
    return workspace


@pytest.fixture
def two_days(measured: Workspace, copy_of: Callable[[Workspace], Workspace]) -> Workspace:
    """The same, the test's own."""
    return copy_of(measured)


def test_numbers_by_deciles(two_days: Workspace) -> None:
    found = numbers(two_days)
    # The deciles of 1..20 are 2, 4, … 18; two rows lie in each bin, and 2 belongs to the first.
    reference = [2] * 10
    first_hour, day = [3] + [0] * 9, [3] + [0] * 8 + [1]
    for at, feature, actual in ((24, "view_item.price", first_hour), (24, "day:view_item.price", day)):
        assert found[at, feature, "psi"] == pytest.approx(smoothed(reference, actual), abs=1e-12)
        assert found[at, feature, "js"] == pytest.approx(jensenshannon(reference, actual, base=2), abs=1e-12)
    assert found[26, "view_item.price", "psi"] == pytest.approx(smoothed(reference, [0] * 9 + [1]), abs=1e-12)


def test_text_by_its_commonest_values(two_days: Workspace) -> None:
    found = numbers(two_days)
    reference, actual = [10, 10, 0], [3, 0, 1]  # i0, i1, the rest
    assert found[24, "day:view_item.item_id", "psi"] == pytest.approx(smoothed(reference, actual), abs=1e-12)
    assert found[24, "day:view_item.item_id", "js"] == pytest.approx(
        jensenshannon(reference, actual, base=2), abs=1e-12
    )
    assert found[24, "day:view_item.item_id", "unseen_rate"] == 0.25
    assert found[26, "view_item.item_id", "unseen_rate"] == 1.0
    assert found[24, "view_item.item_id", "unseen_rate"] == 0.0
    assert found[24, "day:view_item.user_id", "unseen_rate"] == 0.0
    assert (24, "day:view_item.user_id", "psi") not in found


def test_nulls_and_counts(two_days: Workspace) -> None:
    found = numbers(two_days)
    assert found[24, "day:view_item.currency", "null_rate"] == 0.25
    assert found[26, "view_item.currency", "null_rate"] == 1.0
    assert found[24, "view_item.basket_id", "null_rate"] == 1.0
    hours = {key[0]: value for key, value in found.items() if key[1:] == ("view_item", "count")}
    # An hour without rows is counted; the newest day ends with its newest hour.
    assert hours == {24: 3.0, 25: 0.0, 26: 1.0}
    assert found[24, "day:all", "count"] == 4.0
    assert (25, "view_item.price", "psi") not in found


def test_a_type_that_fell_silent_is_counted(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    rows = [make_event(n, DAY_0 + n, event_type=kind) for n, kind in enumerate(["view_item"] * 3 + ["purchase"])]
    rows += [make_event(9, DAY_0 + US_PER_DAY), make_event(10, DAY_0 + 3 * US_PER_DAY)]
    write_tables(workspace, {EVENTS: rows})
    measure_drift(workspace, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 3))
    found = numbers(workspace)
    assert found[24, "day:purchase", "count"] == 0.0
    assert found[24, "day:all.event_type", "psi"] == pytest.approx(smoothed([3, 1], [1, 0]), abs=1e-12)
    # The third day has no events at all.
    assert {value for key, value in found.items() if key[0] >= 48 and key[2] == "count"} == {0.0}
    assert len([key for key in found if key[0] >= 48 and key[1] == "all"]) == 24


def test_one_value_alone_still_has_a_below_and_an_above(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    rows = [make_event(n, DAY_0 + n, quantity=2) for n in range(5)]
    rows += [make_event(10 + n, DAY_0 + US_PER_DAY + n, quantity=quantity) for n, quantity in enumerate((1, 2, 3, 3))]
    write_tables(workspace, {EVENTS: rows})
    measure_drift(workspace, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 2))
    assert numbers(workspace)[24, "day:view_item.quantity", "js"] == pytest.approx(
        jensenshannon([0, 5, 0], [1, 1, 2], base=2), abs=1e-12
    )


def test_the_rest_is_one_bin(workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent) -> None:
    # i00 three times, i01 twice, the others once: the commonest 20 are i00 to i19, ties by value.
    names = ["i00", "i00", "i01"] + [f"i{n:02}" for n in range(25)]
    rows = [make_event(n, DAY_0 + n, item_id=name) for n, name in enumerate(names)]
    rows += [
        make_event(100 + n, DAY_0 + US_PER_DAY + n, item_id=name) for n, name in enumerate(["i01", "i20", "i24", "zz"])
    ]
    write_tables(workspace, {EVENTS: rows})
    measure_drift(workspace, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 2))
    found = numbers(workspace)
    reference, actual = [3, 2] + [1] * 18 + [5], [0, 1] + [0] * 18 + [3]
    assert found[24, "day:view_item.item_id", "js"] == pytest.approx(
        jensenshannon(reference, actual, base=2), abs=1e-12
    )
    assert found[24, "day:view_item.item_id", "psi"] == pytest.approx(smoothed(reference, actual), abs=1e-12)
    assert found[24, "day:view_item.item_id", "unseen_rate"] == 0.25


def test_only_the_days_before_are_the_reference(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    rows = [make_event(n, DAY_0 + n * US_PER_DAY, item_id=f"i{n}") for n in (0, 2, 30, 31)]
    write_tables(workspace, {EVENTS: [*rows, make_event(40, DAY_0 + 30 * US_PER_DAY + 1, item_id="i0")]})
    measure_drift(workspace, Silent(), first=date(2020, 1, 31), last=date(2020, 1, 31))
    assert newest(workspace, DRIFT)[0]["reference_version"] == "0:2020-01-03/2020-01-30"
    # i0 was there 30 days before, which is too long ago; i2 28 days before, i31 comes only later.
    assert numbers(workspace)[30 * 24, "day:view_item.item_id", "unseen_rate"] == 1.0
    assert numbers(workspace)[30 * 24, "day:view_item.item_id", "js"] == 1.0


def test_another_version_as_the_reference(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    write_tables(workspace, {EVENTS: [make_event(0, DAY_0, item_id="old")]})
    write_tables(workspace, {EVENTS: [make_event(0, DAY_0, item_id="new"), make_event(1, DAY_0 + 1, item_id="old")]})
    measure_drift(workspace, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 1), reference_version=0)
    assert numbers(workspace)[0, "day:view_item.item_id", "unseen_rate"] == 0.5
    assert {row["reference_version"] for name in (DRIFT, DRIFT_DAYS) for row in newest(workspace, name)} == {"0"}
    with pytest.raises(InputError, match="has no version 5"):
        measure_drift(workspace, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 1), reference_version=5)


def test_the_first_day_has_nothing_to_be_compared_with(two_days: Workspace) -> None:
    measure_drift(two_days, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 1))
    first_day = {key[2] for key in numbers(two_days) if key[0] < 24}
    assert first_day == {"count", "null_rate"}


def test_whole_days_stand_apart_from_hours(two_days: Workspace) -> None:
    # A reader by hour counts midnight once: its three rows, and not the day's four.
    counts = [row for row in newest(two_days, DRIFT) if (row["feature"], row["statistic"]) == ("all", "count")]
    assert [row["value"] for row in counts] == [3.0, 0.0, 1.0]
    assert {row["hour"] for row in counts} == {DAY_0 + US_PER_DAY + n * HOUR for n in range(3)}
    assert not [row for row in newest(two_days, DRIFT) if ":" in row["feature"]]
    [day] = [row for row in newest(two_days, DRIFT_DAYS) if (row["feature"], row["statistic"]) == ("all", "count")]
    assert (day["event_date"], day["value"], day["count"]) == (date(2020, 1, 2), 4.0, 4)


def landed_rows(make_event: MakeEvent, moments: dict[int, tuple[str, int]]) -> list[dict[str, Any]]:
    """By number: the batch that brought the row, and when it happened."""
    names = TABLES[LANDED].schema.names
    return [
        {name: value for name, value in make_event(number, ts_us).items() if name in names}
        | {"batch": batch, "row_number": number}
        for number, (batch, ts_us) in moments.items()
    ]


def batch_row(name: str, landed_at_us: int | None) -> dict[str, Any]:
    return {"batch": name, "source": "s", "sha256": "", "num_rows": 0, "num_duplicates": 0, "counts": "{}",
            "landed_at_us": landed_at_us}  # fmt: skip


def test_lag_is_from_the_event_to_its_landing(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    # Twenty rows of the first hour came in time, a minute after the last of them; one came five days later.
    on_time, late, second = DAY_0 + 20 * 60_000_000, DAY_0 + 5 * US_PER_DAY, 1_000_000
    moments = {n: ("first", DAY_0 + n * 60_000_000) for n in range(20)} | {20: ("late", DAY_0 + 30 * second)}
    moments |= {21: ("late", DAY_0 + HOUR)}
    rows = landed_rows(make_event, moments)
    rows[21]["event_type"] = "purchase"
    write_tables(workspace, {
        EVENTS: [make_event(0, DAY_0)], LANDED: rows, BATCHES: [batch_row("first", on_time), batch_row("late", late)]
    })  # fmt: skip
    measure_drift(workspace, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 1))
    found = numbers(workspace)
    # 21 rows: the 11th and the 20th of the lags 1, 2, … 20 minutes and 5 days.
    expected = {"lag_seconds_p50": 11 * 60.0, "lag_seconds_p95": 20 * 60.0, "lag_seconds_max": 5 * 86_400.0 - 30}
    assert {name: found[0, "view_item", name] for name in expected} == expected
    assert {name: found[0, "all", name] for name in expected} == expected
    assert {name: found[0, "day:view_item", name] for name in expected} == expected
    assert {found[1, "purchase", name] for name in expected} == {5 * 86_400.0 - 3600}
    # With the purchase 22 rows: the 11th and the 21st.
    assert found[0, "day:all", "lag_seconds_p50"] == 11 * 60.0
    assert found[0, "day:all", "lag_seconds_p95"] == 5 * 86_400.0 - 3600
    [counted] = [row for row in newest(workspace, DRIFT_DAYS) if row["statistic"] == "lag_seconds_max"
                 and row["feature"] == "all"]  # fmt: skip
    assert counted["count"] == 22


def test_an_unknown_lag_is_null_and_counts_for_nothing(
    workspace: Workspace, write_tables: WriteTables, make_event: MakeEvent
) -> None:
    rows = landed_rows(make_event, {0: ("old", DAY_0), 1: ("old", DAY_0 + HOUR), 2: ("known", DAY_0 + HOUR)})
    batches = [batch_row("old", None), batch_row("known", DAY_0 + 3 * HOUR)]
    write_tables(workspace, {EVENTS: [make_event(0, DAY_0)], LANDED: rows, BATCHES: batches})
    measure_drift(workspace, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 1))
    found = numbers(workspace)
    assert found[0, "all", "lag_seconds_p50"] is None
    assert found[1, "all", "lag_seconds_p50"] == 7200.0
    counts = {(row["hour"], row["feature"]): row["count"] for row in newest(workspace, DRIFT)
              if row["statistic"] == "lag_seconds_p95"}  # fmt: skip
    assert counts == {(DAY_0 + hour * HOUR, name): hour for hour in (0, 1) for name in ("all", "view_item")}


def test_measuring_again_changes_nothing_and_other_days_stay(two_days: Workspace) -> None:
    before = numbers(two_days)
    again = measure_drift(two_days, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 2))
    assert (again.changed, again.version, again.replaced) == (False, 0, ())
    both = measure_drift(two_days, Silent(), first=date(2020, 1, 1), last=date(2020, 1, 2))
    assert (both.changed, both.version, both.replaced) == (True, 1, ("2020-01-01",))
    after = numbers(two_days)
    assert {key: value for key, value in after.items() if key[0] >= 24} == before
    assert all(math.isfinite(value) for value in after.values())


def test_days_that_make_no_sense(two_days: Workspace, tmp_path: Any) -> None:
    with pytest.raises(InputError, match="first comes after the last"):
        measure_drift(two_days, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 1))
    with pytest.raises(
        InputError, match="no events from 2021-01-01 to 2021-01-02: they reach from 2020-01-01 to 2020-01-02"
    ):
        measure_drift(two_days, Silent(), first=date(2021, 1, 1), last=date(2021, 1, 2))
    with pytest.raises(InputError, match="holds no events: nothing to compare"):
        measure_drift(Workspace.init(tmp_path / "empty"), Silent(), first=date(2020, 1, 1), last=date(2020, 1, 2))
