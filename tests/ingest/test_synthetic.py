"""A made-up shop is what its truth says, the same each time, and has in it what models and tests need."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from datetime import date
from decimal import Decimal
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENT_TYPES, ITEM_OPTIONAL, US_PER_DAY, US_PER_MINUTE
from endcap.ingest import pipeline
from endcap.ingest.synthetic import Plan, generate, parse_count
from endcap.ingest.synthetic.draws import stream
from endcap.ingest.synthetic.lists import PLACES, POOL, show_lists
from endcap.ingest.synthetic.shop import TRUTH
from endcap.ingest.synthetic.world import make_world
from endcap.workspace.layout import Workspace

PLAN = Plan(num_events=30_000, num_days=14, num_users=600, num_items=150, seed=3)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "shop"
    generate(out, PLAN)
    return out


@pytest.fixture(scope="module")
def truth(shop: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shop / TRUTH).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def rows(shop: Path) -> list[Row]:
    """All rows, each with the day of its file (`file_day`)."""
    found = []
    for path in sorted((shop / "events").iterdir()):
        day = (date.fromisoformat(path.stem.removeprefix("events_")) - PLAN.start).days
        found += [{**row, "file_day": day} for row in pq.read_table(path).to_pylist()]
    return found


@pytest.fixture(scope="module")
def events(rows: list[Row]) -> list[Row]:
    """Distinct events, each with whoever did it (`person`), by time."""
    people = {row["guest_id"]: row["user_id"] for row in rows if row["guest_id"] and row["user_id"]}
    distinct = {}
    for row in rows:
        person = row["user_id"] or people.get(row["guest_id"], row["guest_id"])
        distinct.setdefault(row["event_id"], {**row, "person": person})
    return sorted(distinct.values(), key=lambda row: row["ts_us"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def num_sessions(events: list[Row], who: Any) -> int:
    moments = defaultdict(list)
    for row in events:
        moments[who(row)].append(row["ts_us"])
    gap_us = 30 * US_PER_MINUTE
    return sum(1 + sum(b - a > gap_us for a, b in pairwise(own)) for own in moments.values())


def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path: Path) -> None:
    small = Plan(num_events=2_000, num_days=3, seed=5)
    generate(tmp_path / "one", small)
    generate(tmp_path / "two", small)
    generate(tmp_path / "other", Plan(num_events=2_000, num_days=3, seed=6))
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert not [name for name in one if name.startswith("events") and one[name] == other[name]]


def test_counts_are_those_of_the_truth(rows: list[Row], events: list[Row], truth: dict[str, Any]) -> None:
    assert truth["num_rows"] == len(rows)
    assert truth["num_events"] == len(events) == sum(truth["events"].values())
    assert truth["num_duplicates"] == len(rows) - len(events)
    assert len(events) == pytest.approx(PLAN.num_events, rel=0.005)
    assert truth["num_duplicates"] == pytest.approx(0.01 * len(events), rel=0.3)
    assert truth["num_people"] == len({row["person"] for row in events if not row["person"].startswith("bot")})
    assert truth["num_users"] == len({row["user_id"] for row in events if row["user_id"] and row["user_id"][0] == "u"})
    assert truth["num_guest_events"] == sum(row["user_id"] is None for row in events) > 0
    assert truth["num_bot_events"] == sum((row["user_id"] or "").startswith("bot") for row in events) > 0
    counted = {name: sum(row["event_type"] == name for row in events) for name in truth["events"]}
    assert truth["events"] == counted
    assert min(counted.values()) > 0
    assert set(counted) <= set(EVENT_TYPES)


def test_repeats_are_equal_to_their_first(rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        own = {name: value for name, value in row.items() if name != "file_day"}
        assert first.setdefault(row["event_id"], own) == own


def test_late_events_stand_in_later_files(rows: list[Row], truth: dict[str, Any]) -> None:
    arrived: dict[str, int] = {}
    for row in rows:
        arrived[row["event_id"]] = min(row["file_day"], arrived.get(row["event_id"], PLAN.num_days))
    days = {row["event_id"]: (row["ts_us"] - PLAN.start_us) // US_PER_DAY for row in rows}
    waits = [arrived[event_id] - day for event_id, day in days.items()]
    assert set(waits) == {0, 1, 2, 3}
    assert sum(wait > 0 for wait in waits) == truth["num_late"]


def test_sessions_are_those_of_the_truth_and_some_pass_midnight(events: list[Row], truth: dict[str, Any]) -> None:
    assert num_sessions(events, lambda row: row["person"]) == truth["num_sessions"]
    assert num_sessions(events, lambda row: row["user_id"] or row["guest_id"]) == truth["num_sessions_unmerged"]
    by_person = defaultdict(list)
    for row in events:
        by_person[row["person"]].append(row["ts_us"])
    pairs = [pair for own in by_person.values() for pair in pairwise(own)]
    assert any(b - a <= 30 * US_PER_MINUTE and a // US_PER_DAY != b // US_PER_DAY for a, b in pairs)


def test_an_ingest_finds_the_truth(shop: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    result = pipeline.ingest(Workspace.init(tmp_path / "ws"), "files", shop / "events")
    account, build = result.account, result.build
    assert account.num_rows == truth["num_rows"]
    assert account.quarantined == {}
    assert account.num_duplicates + build.num_repeated == truth["num_duplicates"]
    assert build.num_events == truth["num_events"]


def test_weekends_and_evenings_are_busy(events: list[Row]) -> None:
    days = np.array([(row["ts_us"] - PLAN.start_us) // US_PER_DAY for row in events])
    per_day = np.bincount(days, minlength=PLAN.num_days)
    weekend = np.arange(PLAN.num_days) % 7 >= 5
    assert per_day[weekend].mean() > 1.1 * per_day[~weekend].mean()
    hours = np.array([row["ts_us"] % US_PER_DAY // (60 * US_PER_MINUTE) for row in events])
    per_hour = np.bincount(hours, minlength=24)
    assert per_hour[19:22].mean() > 4 * per_hour[2:5].mean()


def test_prices_stock_and_categories_are_as_of_the_event(shop: Path, events: list[Row]) -> None:
    versions = defaultdict(list)
    for row in pq.read_table(shop / "item_versions.parquet").to_pylist():
        versions[row["item_id"]].append(row)
    for own in versions.values():
        ends = [row["valid_to_us"] for row in own]
        assert ends == [*(row["valid_from_us"] for row in own[1:]), None]
        states = [(row["price"], row["in_stock"], row["category"]) for row in own]
        assert all(a != b for a, b in pairwise(states))
    assert max(map(len, versions.values())) > 2
    paid: dict[tuple[str, str], set[Decimal]] = defaultdict(set)
    for row in events:
        if row["item_id"] is None:
            assert row["event_type"] in ITEM_OPTIONAL
            assert row["price"] is row["value"] is row["category"] is None
            continue
        own = versions[row["item_id"]]
        place = bisect_right([version["valid_from_us"] for version in own], row["ts_us"]) - 1
        assert place >= 0, "an event before the product came into the shop"
        if row["event_type"] != "refund":
            assert (row["price"], row["category"]) == (own[place]["price"], own[place]["category"])
        if row["event_type"] in ("add_to_cart", "purchase"):
            assert own[place]["in_stock"]
        if row["event_type"] == "purchase":
            paid[row["basket_id"], row["item_id"]].add(row["price"])
        if row["quantity"] is not None:
            assert row["value"] == row["price"] * row["quantity"]
    refunds = [row for row in events if row["event_type"] == "refund"]
    assert refunds
    assert all(row["price"] in paid[row["basket_id"], row["item_id"]] for row in refunds)


def test_products_come_into_the_shop_over_time(shop: Path, events: list[Row]) -> None:
    first_us = {
        row["item_id"]: row["valid_from_us"] for row in pq.read_table(shop / "item_versions.parquet").to_pylist()[::-1]
    }
    launched = {item for item, moment in first_us.items() if moment > PLAN.start_us}
    assert 0.05 < len(launched) / len(first_us) < 0.4
    seen = {row["item_id"] for row in events}
    assert len(launched & seen) > len(launched) / 2
    catalog = pq.read_table(shop / "items.parquet").to_pylist()
    assert {row["item_id"] for row in catalog} == set(first_us)
    assert len({row["group_id"] for row in catalog}) < len(catalog)


def test_few_products_are_popular_and_people_have_tastes(events: list[Row]) -> None:
    views = [row for row in events if row["event_type"] == "view_item" and not row["person"].startswith("bot")]
    counts = sorted(np.unique([row["item_id"] for row in views], return_counts=True)[1], reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.25 * len(views)
    overall = defaultdict(int)
    own: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in views:
        overall[row["category"]] += 1
        own[row["person"]][row["category"]] += 1
    regulars = [found for found in own.values() if sum(found.values()) >= 30]
    favourite_share = np.mean([max(found.values()) / sum(found.values()) for found in regulars])
    assert len(regulars) > 50
    assert favourite_share > 2 * max(overall.values()) / len(views)


def test_what_is_used_up_is_bought_again_in_its_own_rhythm(tmp_path: Path) -> None:
    plan = Plan(num_events=20_000, num_days=40, num_users=300, num_items=60)
    generate(tmp_path / "shop", plan)
    world = make_world(plan)
    days = defaultdict(set)
    for row in pq.read_table(tmp_path / "shop" / "events").to_pylist():
        if row["event_type"] == "purchase" and row["user_id"] is not None:
            user, item = int(row["user_id"][1:]), int(row["item_id"][1:])
            if item in world.people.staples[user]:
                days[user, item].add((row["ts_us"] - plan.start_us) // US_PER_DAY)
    gaps = [(b - a, world.items.repeat_days[item]) for (_, item), own in days.items() for a, b in pairwise(sorted(own))]
    assert len(gaps) > 30
    assert np.mean([gap % period == 0 for gap, period in gaps]) > 0.7


def test_propensities_are_the_probabilities_of_what_was_shown() -> None:
    world = make_world(PLAN)
    rng = stream(1, 0)
    num_requests = 40_000
    users = rng.integers(0, PLAN.users, num_requests)
    candidates = np.broadcast_to(rng.choice(PLAN.items, POOL, replace=False), (num_requests, POOL))
    lists = show_lists(rng, world, users, candidates, np.full(num_requests, 99))
    assert (lists.propensities > 0).all()
    assert (lists.propensities <= 1).all()
    assert all(len(set(shown)) == PLACES for shown in lists.items[:100].tolist())
    # The mean of 1/p over draws is the number of things that could be drawn.
    expected = POOL - np.arange(PLACES)
    np.testing.assert_allclose((1 / lists.propensities).mean(axis=0), expected, rtol=0.1)
    clicks = lists.is_clicked.sum(axis=0)
    assert clicks[0] > 1.5 * clicks[-1]


def test_a_candidate_that_stands_twice_is_shown_once_and_odds_are_of_the_rest() -> None:
    world = make_world(PLAN)
    candidates = np.array([[7] * (POOL - 1) + [9]])
    lists = show_lists(stream(1, 0), world, np.array([0]), candidates, np.array([1]))
    shown = lists.items[0]
    assert sorted(shown[:2].tolist()) == [7, 9]
    assert (shown[2:] == -1).all()
    assert lists.propensities[0, 1] == pytest.approx(1.0)


def test_feedback_is_about_what_was_shown(shop: Path, events: list[Row], truth: dict[str, Any]) -> None:
    requests = pa.concat_tables(map(pq.read_table, sorted((shop / "logs/requests").iterdir()))).to_pylist()
    feedback = pa.concat_tables(map(pq.read_table, sorted((shop / "logs/feedback").iterdir()))).to_pylist()
    by_id = {row["request_id"]: row for row in requests}
    assert len(requests) == len(by_id) == truth["num_requests"] == truth["events"]["view_item_list"]
    assert sum(len(row["item_ids"]) for row in requests) == truth["num_impressions"]
    assert len(feedback) == truth["num_feedback"]
    for row in requests:
        assert row["positions"] == list(range(1, len(row["item_ids"]) + 1))
        assert len(row["propensities"]) == len(row["scores"]) == len(row["item_ids"])
    happened = {(row["event_type"], row["item_id"], row["ts_us"]): row for row in events}
    for row in feedback:
        request = by_id[row["request_id"]]
        assert row["item_id"] in request["item_ids"]
        assert row["event_time"] > request["request_time"]
        moment_us = round(row["event_time"].timestamp() * 1_000_000)
        event = happened[row["event_type"], row["item_id"], moment_us]
        assert row["value"] == (event["value"] if row["event_type"] == "purchase" else None)
    assert {key for key, _ in groupby(sorted(row["event_type"] for row in feedback))} == {
        "select_item",
        "add_to_cart",
        "purchase",
    }


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_other_formats_hold_the_same_rows(tmp_path: Path, file_format: Any) -> None:
    options: dict[str, Any] = {"num_events": 500, "num_days": 2, "seed": 4}
    generate(tmp_path / "parquet", Plan(**options))
    generate(tmp_path / "other", Plan(**options, file_format=file_format))
    expected = pq.read_table(tmp_path / "parquet/events/events_2026-01-05.parquet").to_pylist()
    path = tmp_path / f"other/events/events_2026-01-05.{file_format}"
    if file_format == "csv":
        text = pa_csv.ConvertOptions(
            strings_can_be_null=True, column_types={"value": pa.string(), "price": pa.string()}
        )
        found = pa_csv.read_csv(path, convert_options=text).to_pylist()
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line, parse_float=Decimal) for line in lines]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["event_id"] == theirs["event_id"]
        assert mine["ts_us"] == theirs["ts_us"]
        assert mine["item_id"] == theirs["item_id"]
        assert (None if mine["value"] is None else Decimal(mine["value"])) == theirs["value"]
        properties = mine["properties"]
        assert (json.loads(properties) if isinstance(properties, str) else properties) == json.loads(
            theirs["properties"]
        )


def test_counts_are_read_as_people_write_them() -> None:
    assert [parse_count(text) for text in ("20M", "500k", "1.5k", "7", "1_000", "2,000")] == [
        20_000_000,
        500_000,
        1_500,
        7,
        1_000,
        2_000,
    ]
    for text in ("", "many", "-5", "0", "5 apples", "1e6"):
        with pytest.raises(InputError, match="no count"):
            parse_count(text)


def test_impossible_plans_are_refused_all_at_once(shop: Path) -> None:
    with pytest.raises(InputError, match=r"days is 0.*duplicates is 2"):
        Plan(num_events=10, num_days=0, duplicate_share=2.0)
    with pytest.raises(InputError, match="exists already"):
        generate(shop, PLAN)


@pytest.mark.parametrize(
    "plan", [Plan(num_events=1, num_days=1), Plan(num_events=40, num_days=60, num_users=1, num_items=1)]
)
def test_tiny_shops_work(tmp_path: Path, plan: Plan) -> None:
    truth = generate(tmp_path / "shop", plan)
    assert truth["num_rows"] == truth["num_events"] + truth["num_duplicates"]
    assert len(list((tmp_path / "shop/events").iterdir())) == plan.num_days
