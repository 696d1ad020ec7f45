"""A feature that counts the moment itself, or anything after it, is found in a sample; inputs of later days are refused."""

import pyarrow as pa
import pytest

from endcap.contracts.errors import ArtifactError
from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.engines import duckdb
from endcap.features import daily, default, spine_leaks
from endcap.workspace.layout import Workspace

DAY = US_PER_DAY
GROUPS = ("user", "price", "history")


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


@pytest.fixture(scope="module")
def shop(events_of, versions_of, spine_of):
    events = events_of([("ann", "cup", PURCHASE, (10 + day) * DAY) for day in range(4)])
    # The price falls a microsecond after the last question's midnight, and the cup is gone at its very moment.
    versions = versions_of([("cup", 0, 13 * DAY + 1, "5", "tea"), ("cup", 13 * DAY + 1, None, "1", "tea"), ("jug", 0, None, "3", "tea")])  # fmt: skip
    return spine_of([("ann", "cup", day * DAY + 2) for day in (11, 13)]), events, versions


def compute(spine, events, versions):
    return default.features_of(GROUPS, spine, events, versions)


def check(connection, shop, made_by, kept=GROUPS):
    spine, events, versions = shop
    sample = spine_leaks.sampled(connection.to_pyarrow(spine))
    made = {
        name: connection.to_pyarrow(table) for name, table in made_by(spine, events, versions).items() if name in kept
    }
    about = spine_leaks.events_about(sample, events)
    spine_leaks.refuse_counted_future(connection, sample, made, about, versions, compute)


def test_features_as_of_their_moment_pass(connection, shop):
    check(connection, shop, compute)


@pytest.mark.parametrize(
    ("group", "column"), [("user", "user_num_purchase_1d"), ("price", "item_price"), ("history", "item_id")]
)
def test_whoever_looks_ahead_is_found(connection, shop, group, column):
    def looks_ahead(spine, events, versions):
        late = spine.mutate(event_time_us=spine.event_time_us + DAY)
        return compute(late, events, versions)

    with pytest.raises(
        ArtifactError, match=rf"Leak: {group}\.\w+ changes when what happened at or after a row's moment"
    ):
        check(connection, shop, looks_ahead, (group,))


def test_an_event_at_the_moment_itself_is_a_leak(connection, shop):
    spine, events, versions = shop
    at_moment = spine.mutate(event_time_us=spine.event_time_us - 2)
    check(connection, (at_moment, events, versions), compute)

    def counts_it(spine, events, versions):
        return compute(spine.mutate(event_time_us=spine.event_time_us + 1), events, versions)

    with pytest.raises(ArtifactError, match=r"Leak: user\."):
        check(connection, (at_moment, events, versions), counts_it, ("user",))


def test_the_sample_is_spread_over_time_and_bounded():
    rows = pa.table({
        "query_num": range(1000), "user_id": ["a"] * 1000, "item_id": ["i"] * 1000, "event_time_us": [n // 100 for n in range(1000)],
    })  # fmt: skip
    sample = spine_leaks.sampled(rows)
    assert sample["event_time_us"].unique().to_pylist() == [0, 1, 3, 5, 7, 9]
    assert sample.num_rows == 6 * spine_leaks.NUM_AT_MOMENT


def test_windows_are_made_of_earlier_days_alone(connection, shop):
    _, events, versions = shop
    days = daily.user_days(events)
    spine_leaks.refuse_later_inputs(
        connection, {"user_days": days, "item_versions": spine_leaks.cut(versions, 14 * DAY)}, 14
    )
    with pytest.raises(ArtifactError, match="Leak: 1 rows of user_days are of day 13 or later"):
        spine_leaks.refuse_later_inputs(connection, {"user_days": days}, 13)
    spine_leaks.refuse_later_inputs(connection, {"item_versions": spine_leaks.cut(versions, 13 * DAY)}, 13)
    with pytest.raises(ArtifactError, match="Leak: 1 rows of item_versions"):
        spine_leaks.refuse_later_inputs(connection, {"item_versions": versions}, 13)
    spine_leaks.refuse_later_inputs(connection, {"user_days": days.limit(0)}, 1)
