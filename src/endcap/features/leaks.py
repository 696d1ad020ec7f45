"""Feature tables and the purchases they were built from in, an error out when any of them knows what it shouldn't.

The features of a sample of questions are made again from purchases that end before their moment: what differs was made
with knowledge of later ones, wherever in the code that came from.
"""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import ArtifactError
from endcap.features.dataset import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LINES,
    QUESTION_TABLES,
    FeatureTables,
    Settings,
    history_of,
    with_history,
)
from endcap.features.exact import MOMENT_US, QUERY_NUM
from endcap.features.lines import TARGET_VALUES, with_user_targets
from endcap.features.point_in_time import DAY_US, buyer_features
from endcap.features.split import CONTEXT, EVAL, PERIOD, TEST, TRAIN, Split

FloatArray = npt.NDArray[np.float64]

_NUM_QUESTIONS: Final = 300
_NUM_DAYS: Final = 3
_MIN_ROWS: Final = 30
"""Fewer rows may all agree by chance."""
_NEXT = "Nothing of this build was kept. The split or a feature uses what isn't known yet: mend it, then build again."


def refuse_leaks(
    connection: Backend,
    tables: FeatureTables,
    users: ir.Table,
    settings: Settings,
    labelled: ir.Table | None = None,
    signals: ir.Table | None = None,
) -> None:
    """Check feature tables as `dataset.build` writes them.

    Args:
        connection: Where expressions run.
        tables: What was built.
        users: What it was built with.
        settings: What it was built with.
        labelled: The purchases with their targets, where there is one.
        signals: What users did beside buying, where that counts.

    Raises:
        ArtifactError: A purchase, product or question of one part is known to another, a target stands among the
            features, or a feature of a sampled question changes when later purchases are taken away.
    """
    purchases = tables.table("purchases")
    refuse_mixed_parts(purchases, tables.split)
    questions = {name: tables.table(name) for name in (*QUESTION_TABLES, *([LINES] if labelled is not None else []))}
    refuse_misplaced_questions(questions["baskets"], purchases, tables.split)
    refuse_future_products(tables, purchases, has_target=labelled is not None)
    for name, table in questions.items():
        if "targets" in table.column_names:
            refuse_targets_among_features(name, table, table["targets"])
        if TARGET_VALUES in table.column_names:
            refuse_targets_among_features(name, table, table[TARGET_VALUES])
        _refuse_later_acts(connection, name, table, ibis.memtable(purchases), users, settings, labelled, signals)


def refuse_mixed_parts(purchases: pa.Table, split: Split) -> None:
    """No purchase stands in two parts; parts follow one another, over all or for each customer, as the split says."""
    rows = ibis.memtable(purchases.select(["user_id", "item_id", "ts_us", PERIOD]))
    pairs = rows.distinct().group_by("user_id", "item_id", "ts_us").aggregate(num=lambda t: t.count())
    num_mixed = pairs.filter(pairs["num"] > 1).count().to_pyarrow().as_py()
    if num_mixed:
        raise _leak(
            f"{num_mixed:,} purchases (user, item, moment) stand in two parts of the split; expected each in one"
        )
    if split.kind == "time":
        bounds = rows.group_by(PERIOD).aggregate(first=rows["ts_us"].min(), last=rows["ts_us"].max()).to_pyarrow()
        parts = {row[PERIOD]: row for row in bounds.to_pylist()}
        in_order = (
            parts[TRAIN]["last"] < split.eval_start_us <= parts[EVAL]["first"]
            and parts[EVAL]["last"] < split.test_start_us <= parts[TEST]["first"]
        )
        if not in_order:
            raise _leak("the periods overlap in time; expected train before eval before test")
        return
    order = ibis.cases((rows[PERIOD] == TEST, 2), (rows[PERIOD] == EVAL, 1), else_=0)
    placed = rows.select("user_id", "ts_us", is_train=(rows[PERIOD] == TRAIN), order=order.cast("int64"))
    by_user = ibis.window(group_by="user_id", order_by="ts_us", preceding=None, following=0)
    so_far = placed.mutate(most=placed["order"].max().over(by_user))
    num_late = so_far.filter(so_far["most"] > so_far["order"]).select("user_id").distinct().count().to_pyarrow().as_py()
    if num_late:
        raise _leak(f"{num_late:,} customers bought something to train on after a held-out basket; expected it last")
    if split.kind == "random":
        parts_of = placed.group_by("user_id").aggregate(trains=placed["is_train"].sum(), num=placed.count())
        num_both = (
            parts_of.filter(parts_of["trains"] > 0, parts_of["trains"] < parts_of["num"]).count().to_pyarrow().as_py()
        )
        if num_both:
            raise _leak(f"{num_both:,} customers are both trained on and held out; expected each in one part")


def refuse_misplaced_questions(baskets: pa.Table, purchases: pa.Table, split: Split) -> None:
    """A question comes no later than its basket, and asks for purchases of its own part."""
    num_late = pc.sum(pc.greater(baskets[MOMENT_US], baskets["bought_us"])).as_py() or 0
    if num_late:
        raise _leak(f"{num_late:,} questions of baskets are asked after their basket; expected at or before it")
    if split.kind == "time":
        is_train = pc.equal(baskets[PERIOD], TRAIN)
        too_late = pc.greater_equal(baskets["bought_us"], split.eval_start_us)
        num_late = pc.sum(pc.and_(is_train, too_late)).as_py() or 0
        if num_late:
            raise _leak(
                f"{num_late:,} train questions ask for baskets of the eval or test period; expected earlier ones"
            )
    asked = ibis.memtable(baskets.select(["user_id", "bought_us", PERIOD, "targets"]))
    wanted = asked.select("user_id", "bought_us", asked_period=PERIOD, item_id=asked["targets"].unnest())
    bought = ibis.memtable(purchases.select(["user_id", "item_id", "ts_us", PERIOD]))
    met = wanted.inner_join(
        bought.rename(buyer_id="user_id", bought_item_id="item_id"),
        [("user_id", "buyer_id"), ("bought_us", "ts_us"), ("item_id", "bought_item_id")],
    )
    num_other = met.filter(met["asked_period"] != met[PERIOD]).count().to_pyarrow().as_py()
    if num_other:
        raise _leak(f"{num_other:,} targets of questions are purchases of another part; expected their own")
    if split.kind != "time":
        _refuse_late_training(baskets, purchases, split)


def _refuse_late_training(baskets: pa.Table, purchases: pa.Table, split: Split) -> None:
    """Nothing that a customer did after a held-out basket is trained on; of `random`'s held-out customers nothing at all."""
    held = purchases.filter(pc.is_in(purchases[PERIOD], value_set=pa.array([EVAL, TEST, CONTEXT])))
    first = held.group_by("user_id").aggregate([("ts_us", "min")]).rename_columns(["held_user_id", "held_us"])
    trained = ibis.memtable(baskets.filter(pc.equal(baskets[PERIOD], TRAIN)).select(["user_id", "bought_us"]))
    met = trained.inner_join(ibis.memtable(first), [("user_id", "held_user_id")])
    late = met if split.kind == "random" else met.filter(met["bought_us"] >= met["held_us"])
    if num_late := late.count().to_pyarrow().as_py():
        raise _leak(
            f"{num_late:,} train questions are of held-out customers, or of what they did after a held-out basket; "
            "expected earlier ones"
        )


def refuse_future_products(tables: FeatureTables, purchases: pa.Table, *, has_target: bool = False) -> None:
    """No catalog describes a product by sales on its day or later, counts held-out baskets, or lies after the test's start.

    With a target the catalogs go on to the end of the data: a line of the test meets its own day's.
    """
    split = tables.split
    last_day = (split.end_us if has_target else split.test_start_us) // DAY_US
    later = tables.products_after(last_day)
    if later.num_rows:
        raise _leak(f"the catalog has {later.num_rows:,} rows after day {last_day}, the last that may be known")
    if split.kind != "time":
        purchases = purchases.filter(pc.is_in(purchases[PERIOD], value_set=pa.array([TRAIN, CONTEXT])))
    sold_days = purchases["ts_us"].to_numpy() // DAY_US
    for day in np.unique(np.linspace(sold_days.min(), last_day, _NUM_DAYS + 1).astype(int)):
        catalog = tables.products_on(int(day))
        expected = _sales_before(purchases.filter(pa.array(sold_days < day)), catalog["item_id"], int(day))
        for name, values in expected.items():
            found = catalog[name].to_numpy()
            num_other = len(values) - int(np.isclose(found, values, rtol=1e-9, atol=0, equal_nan=True).sum())
            if num_other:
                raise _leak(
                    f"{name} of {num_other:,} products on day {day} isn't what purchases before that day give; "
                    "expected the catalog as of the midnight that begins it"
                )


def _sales_before(purchases: pa.Table, item_ids: pa.ChunkedArray, day: int) -> dict[str, FloatArray]:
    """What the catalog says of products, counted one by one: a way of its own to the same numbers."""
    purchases = purchases.filter(pc.is_in(purchases["item_id"], value_set=item_ids.combine_chunks()))
    in_order = purchases.sort_by([("ts_us", "ascending"), ("price", "ascending")])
    sold_day = in_order["ts_us"].to_numpy() // DAY_US
    items = np.asarray(pc.index_in(in_order["item_id"], value_set=item_ids.combine_chunks()).to_numpy(), np.int64)
    num_items = len(item_ids)
    first, last, price = (np.full(num_items, np.nan) for _ in range(3))
    first[items[::-1]] = day - sold_day[::-1]
    last[items] = day - sold_day
    price[items] = in_order["price"].cast(pa.float64()).to_numpy()
    expected = {"days_since_first_sold": first, "days_since_last_sold": last, "price": price}
    for name, num_days in (("purchases_per_10k", day), ("purchases_7d_per_10k", 7)):
        counts = np.bincount(items[sold_day >= day - num_days], minlength=num_items)
        expected[name] = counts * 10_000 / max(counts.sum(), 1)
    return expected


def refuse_targets_among_features(name: str, features: pa.Table, target: pa.ChunkedArray) -> None:
    """No column says the answer: equal to it in every row, or the same products in any order."""
    for column in features.column_names:
        if column not in LABEL_COLUMNS and _says(features[column], target):
            raise _leak(
                f"{name}.{column} equals the target in all {len(target):,} rows; expected a feature to know less"
            )


def _says(feature: pa.ChunkedArray, target: pa.ChunkedArray) -> bool:
    if len(target) < _MIN_ROWS or pc.all(pc.is_null(feature)).as_py():
        return False
    # One by one: nearly every column differs in one of its first rows.
    if any(_content(said) != _content(answer) for said, answer in zip(feature, target, strict=True)):
        return False
    first = _content(target[0])
    return any(_content(answer) != first for answer in target)


def _content(value: pa.Scalar) -> list[str]:
    content = value.as_py()
    if isinstance(content, bool):
        content = int(content)
    if isinstance(content, (int, float)):
        content = float(content)
    return sorted(map(str, content)) if isinstance(content, list) else [str(content)]


def _refuse_later_acts(
    connection: Backend,
    name: str,
    table: pa.Table,
    purchases: ir.Table,
    users: ir.Table,
    settings: Settings,
    labelled: ir.Table | None,
    signals: ir.Table | None,
) -> None:
    """Make a sample's features again, each question's from a copy of its user who did nothing at its moment or later."""
    if not table.num_rows:
        return
    places = np.unique(np.linspace(0, table.num_rows - 1, _NUM_QUESTIONS).astype(np.int64))
    asked = _renumbered(table.take(pa.array(places)))
    copies = ibis.memtable(asked.select([QUERY_NUM, "user_id", MOMENT_US])).mutate(
        copy_id=ibis._[QUERY_NUM].cast("string")
    )

    def before(acts: ir.Table) -> ir.Table:
        known = copies.inner_join(acts, ["user_id", copies[MOMENT_US] > acts["ts_us"]])
        own = known.select(known["copy_id"].name("user_id"), *(set(acts.columns) - {"user_id"}))
        return ibis.memtable(connection.to_pyarrow(own))

    earlier = before(purchases)
    spine = copies.select(QUERY_NUM, MOMENT_US, user_id="copy_id")
    attributes = copies.inner_join(users, "user_id").select("copy_id", *(set(users.columns) - {"user_id"}))
    featured = connection.to_pyarrow(
        buyer_features(spine, earlier, attributes.rename(user_id="copy_id")).order_by(QUERY_NUM)
    )
    entries = history_of(spine, earlier, None if signals is None else before(signals), settings)
    again = with_history(featured, connection.to_pyarrow(entries))
    if labelled is not None:
        again = with_user_targets(connection, again, before(labelled), HISTORY_COLUMNS[0])
    _refuse_differences(name, asked, again.drop_columns(["user_id"]))


def _renumbered(asked: pa.Table) -> pa.Table:
    place = asked.schema.get_field_index(QUERY_NUM)
    return asked.set_column(place, QUERY_NUM, pa.array(np.arange(asked.num_rows, dtype=np.int64)))


def _refuse_differences(name: str, asked: pa.Table, again: pa.Table) -> None:
    for column in again.column_names:
        if not asked[column].combine_chunks().equals(again[column].combine_chunks()):
            raise _leak(
                f"{name}.{column} changes when what happened at or after a question's moment is taken away; "
                "expected it to depend on what came before alone"
            )


def _leak(found: str) -> ArtifactError:
    return ArtifactError(f"Leak: {found}. {_NEXT}")
