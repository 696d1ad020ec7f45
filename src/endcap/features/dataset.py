"""Checked tables in, the feature tables of a training run out: questions by period, catalogs by day, a user snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from endcap.contracts.configuration import QuestionConfig, SplitConfig
from endcap.contracts.errors import ArtifactError
from endcap.contracts.events import PURCHASE
from endcap.contracts.reporting import Reporter
from endcap.engines.portable import nullable
from endcap.features.as_of import FROM_US, UNTIL_US
from endcap.features.lines import TARGET_VALUES, TargetSettings, lines_of, with_item_means, with_user_targets
from endcap.features.point_in_time import DAY_US, buyer_features, history
from endcap.features.products import NUMBERS, product_features
from endcap.features.signals import WEIGHT, acts_of, with_first_seen, with_periods_of
from endcap.features.split import CONTEXT, EVAL, PERIOD, TEST, TRAIN, Split, split_purchases, with_periods

HISTORY_COLUMNS = ("user_history", "user_history_age_days", "user_history_count")
LABEL_COLUMNS = ("query_num", "targets", TARGET_VALUES, "period", "bought_us", WEIGHT)
"""What a question table says of the answer: never a feature."""
QUESTION_TABLES = ("baskets", "eval", "test", "snapshot")
LINES = "lines"
"""The question table of what is to be predicted of each purchase; there with a target alone."""
_ITEM_NUM = "item_num"
SIGNALS = "signals"
"""The table of what users did beside buying before the test; there where more than purchases counts."""
_LAG_SEED = 1
"""Of the random moments; apart from the run's seed, so that runs with different seeds share their features."""


class Settings(msgspec.Struct, frozen=True):
    """What decides the content of feature tables beside the data."""

    split: SplitConfig
    questions: QuestionConfig
    max_length: int
    """Most products of a history."""
    target: TargetSettings | None = None
    """What is to be predicted of each purchase, if anything."""
    history_types: tuple[str, ...] = (PURCHASE,)
    """Types of events that fill histories."""

    @property
    def signal_types(self) -> list[str]:
        """Types but purchases that histories or questions are made of."""
        return sorted({*self.history_types, *self.questions.asked_types} - {PURCHASE})


class FeatureTables(msgspec.Struct, frozen=True):
    """A folder of feature tables and the split they follow.

    `baskets`: one row a customer and basket before the test period: what was bought (`targets`), when (`bought_us`), the
    `period` of that, and the earlier moment at which it is asked for. A question's features are as of its `event_time_us`.
    `eval`, `test`: one row a customer who bought in the period and before it, as of the period's start; `targets` is all
    they bought in it. `snapshot`: one row a customer, as of the end of the data. `products`: one row a product and day, up to the test period's first.
    `purchases`: all of them with their `period`, in time order.

    With a target there is `lines` too: one row a customer and basket of all periods, as of the basket's own moment, with
    `target_values` beside `targets`; every question table then says what the target was so far, and `products` goes
    on to the day that the data ends on.

    Where more than purchases is learned from, `baskets` also has a row for each moment of such events, told apart by `weight`;
    histories hold what the FeatureConfig says, `products` has `days_since_first_seen`, and there is `signals`: the events but
    purchases that may be learned from, `user_id, item_id, ts_us, event_type`, with their `period`.

    Where the split is not by time, `eval` and `test` are a customer's held-out basket, asked for as `baskets` are, and
    `products`, up to the last day, count no purchase of eval and test.
    """

    folder: Path
    split: Split

    def table(self, name: str) -> pa.Table:
        """Read one table. Raises ArtifactError when it isn't there or can't be read."""
        try:
            return pq.read_table(self.folder / f"{name}.parquet")
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{self.folder / name}.parquet can't be read: {error}. Delete the folder and run `endcap features`."
            ) from error

    def purchases_before(self, period: Literal["eval", "test"]) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
        """All purchases, and which of them may be known when `period` is asked for."""
        purchases = self.table("purchases")
        later = pa.array([EVAL, TEST] if period == EVAL else [TEST])
        return purchases, ~np.asarray(pc.is_in(purchases[PERIOD], value_set=later))

    def signals_before(self, period: Literal["eval", "test"]) -> pa.Table | None:
        """What users did beside buying that may be known when `period` is asked for; None where only purchases count."""
        if not (self.folder / f"{SIGNALS}.parquet").is_file():
            return None
        signals = self.table(SIGNALS)
        return signals.filter(pc.equal(signals[PERIOD], TRAIN)) if period == EVAL else signals

    def products_on(self, day: int) -> pa.Table:
        """The catalog as of the midnight that begins `day`, by item id."""
        return self._products([("day", "=", day)])

    def products_until(self, day: int) -> pa.Table:
        """The catalogs of all days up to `day`, by day and item id."""
        return self._products([("day", "<=", day)])

    def products_after(self, day: int) -> pa.Table:
        """The catalogs of all days after `day`."""
        return self._products([("day", ">", day)])

    def _products(self, filters: list[tuple[str, str, int]]) -> pa.Table:
        try:
            return pq.read_table(self.folder / "products.parquet", filters=filters)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{self.folder}/products.parquet can't be read: {error}. Delete the folder and run `endcap features`."
            ) from error


def build(
    connection: Backend,
    purchases: ir.Table,
    items: ir.Table,
    users: ir.Table,
    settings: Settings,
    folder: Path,
    report: Reporter,
    labelled: ir.Table | None = None,
    signals: ir.Table | None = None,
) -> FeatureTables:
    """Write the feature tables into `folder`, which exists and is empty.

    Args:
        connection: Where expressions run.
        purchases: As `purchases_of` gives them.
        items: `item_id` and attributes; see `product_features`.
        users: `user_id` and attributes; see `buyer_features`.
        settings: What decides the content beside the data.
        folder: Where to write.
        report: Hears of each table.
        labelled: As `labelled_purchases` gives them, where there is a target.
        signals: As `signals_of` gives them, where more than purchases counts.
    """
    moments = split_purchases(purchases, settings.split)
    purchases = with_periods(purchases, settings.split, moments)
    if moments.kind != "time":  # the parts come of joins: once is enough
        purchases = ibis.memtable(connection.to_pyarrow(purchases))
    names = QUESTION_TABLES if labelled is None else (*QUESTION_TABLES, LINES)
    num_tables = len(names) + 1
    for number, name in enumerate(names):
        report.progress("features", number, num_tables, name)
        if name == LINES and labelled is not None:
            spine = connection.to_pyarrow(lines_of(labelled, purchases, PERIOD))
        else:
            spine = connection.to_pyarrow(_spine(name, purchases, moments, signals))
        if "previous_us" in spine.column_names:
            spine = _ask_earlier(spine, settings.questions, skip_parts=name == "baskets")
        if name == "baskets" and signals is not None:
            spine = _with_signals(connection, spine, with_periods_of(signals, purchases, moments), settings.questions)
        questions = ibis.memtable(_numbered(spine))
        featured = connection.to_pyarrow(buyer_features(questions, purchases, users).order_by("query_num"))
        table = with_history(featured, connection.to_pyarrow(history_of(questions, purchases, signals, settings)))
        if labelled is not None:
            table = with_user_targets(connection, table, labelled, HISTORY_COLUMNS[0])
        _write(table, folder / f"{name}.parquet")
    report.progress("features", num_tables - 1, num_tables, "products")
    acts = purchases if signals is None else acts_of(purchases, signals, (PURCHASE, *settings.signal_types))
    first_day = day_of(connection.to_pyarrow(acts.ts_us.min()).as_py())
    # By time, a day's row counts nothing after it. Otherwise held-out baskets lie anywhere, so they are taken away.
    known = purchases if moments.kind == "time" else purchases.filter(purchases[PERIOD].isin([TRAIN, CONTEXT]))
    last_day = day_of(moments.test_start_us if labelled is None else moments.end_us)
    described = _in_order(connection.to_pyarrow(items))
    # Sorting days of products moves numbers alone: what the shop says of a product is put beside them afterwards.
    keys = [name for name in described.column_names if name in ("item_id", FROM_US, UNTIL_US)]
    numbered = ibis.memtable(described.select([*keys, _ITEM_NUM]))
    products = product_features(known, numbered, first_day, last_day)
    if signals is not None:
        seen = acts_of(known, signals, (PURCHASE, *settings.signal_types))
        products = with_first_seen(products, seen, DAY_US)
    if labelled is not None:
        pairs = known.select("user_id", "item_id", "ts_us").distinct()
        products = with_item_means(products, labelled.semi_join(pairs, ["user_id", "item_id", "ts_us"]), last_day)
    by_day = connection.to_pyarrow(products.drop("item_id").order_by("day", _ITEM_NUM))
    _write(_described(by_day, described), folder / "products.parquet")
    _write(connection.to_pyarrow(purchases.order_by("ts_us", "basket_id", "item_id")), folder / "purchases.parquet")
    if signals is not None:
        dated = with_periods_of(signals, purchases, moments)
        _write(connection.to_pyarrow(dated.order_by("ts_us", "user_id", "item_id")), folder / f"{SIGNALS}.parquet")
    report.progress("features", num_tables, num_tables)
    return FeatureTables(folder=folder, split=moments)


def _in_order(items: pa.Table) -> pa.Table:
    """Products by id, and by time where they hold for a range of it, with their place."""
    by = [(name, "ascending") for name in ("item_id", FROM_US) if name in items.column_names]
    return items.sort_by(by).append_column(_ITEM_NUM, pa.array(np.arange(items.num_rows, dtype=np.int64)))


def _described(products: pa.Table, items: pa.Table) -> pa.Table:
    """Rows of products with their ids and attributes, in the order of columns of `product_features`."""
    places = products[_ITEM_NUM].combine_chunks()
    columns = {"day": products["day"], "item_id": items["item_id"].combine_chunks().take(places)}
    left = [name for name in products.column_names if name not in ("day", _ITEM_NUM)]
    own = [name for name in items.column_names if name not in ("item_id", FROM_US, UNTIL_US, _ITEM_NUM)]
    columns |= {name: products[name] for name in left if name in NUMBERS}
    columns |= {name: items[name].combine_chunks().take(places) for name in own}
    columns |= {name: products[name] for name in left if name not in NUMBERS}
    return pa.table(columns)


def day_of(moment_us: int) -> int:
    """The day (from 1970-01-01, UTC) whose midnight comes last before or at `moment_us`."""
    return moment_us // DAY_US


def history_of(questions: ir.Table, purchases: ir.Table, signals: ir.Table | None, settings: Settings) -> ir.Table:
    """Entries of the questions' histories as `with_history` takes them: of purchases, and of signals where they count."""
    types = settings.history_types
    acts = purchases if signals is None else acts_of(purchases, signals, types)
    entries = history(questions, acts, settings.max_length, types if len(types) > 1 else ())
    return entries.order_by("query_num", ibis.desc("rank"))


def _spine(name: str, purchases: ir.Table, split: Split, signals: ir.Table | None = None) -> ir.Table:
    """The questions of one table: `user_id, event_time_us`, and `targets` but for the snapshot.

    Questions that are asked some time before their basket have `previous_us`, the moment of the basket before.
    """
    if name == "snapshot":
        users = purchases.select("user_id")
        users = users if signals is None else nullable(users).union(nullable(signals.select("user_id")))
        return users.distinct().mutate(event_time_us=ibis.literal(split.end_us, "int64"))
    if name == "baskets" or split.kind != "time":
        by_user = ibis.window(group_by="user_id", order_by="event_time_us")
        baskets = _with_targets(purchases.mutate(event_time_us=ibis._.ts_us), PERIOD)
        dated = baskets.mutate(previous_us=baskets.event_time_us.lag().over(by_user))
        dated = dated.select("user_id", "event_time_us", "targets", PERIOD, "previous_us")
        if name == "baskets":
            return dated.filter(dated[PERIOD].isin([TRAIN, EVAL]))
        return dated.filter(dated[PERIOD] == name).drop(PERIOD)
    start, end = (split.eval_start_us, split.test_start_us) if name == EVAL else (split.test_start_us, split.end_us)
    within = purchases.filter((purchases.ts_us >= start) & (purchases.ts_us < end))
    known = purchases.filter(purchases.ts_us < start).select("user_id").distinct()
    return _with_targets(within.semi_join(known, "user_id").mutate(event_time_us=ibis.literal(start, "int64")))


def _with_signals(connection: Backend, baskets: pa.Table, signals: ir.Table, questions: QuestionConfig) -> pa.Table:
    """Add questions that signals answer, asked as baskets are: before each moment of a type, counted from the one before."""
    tables = [_weighted(baskets, questions.asked_types[PURCHASE])]
    for name, weight in questions.asked_types.items():
        if name == PURCHASE:
            continue
        acts = signals.filter(signals["event_type"] == name).mutate(event_time_us=ibis._.ts_us)
        moments = _with_targets(acts, PERIOD)
        by_user = ibis.window(group_by="user_id", order_by="event_time_us")
        dated = moments.mutate(previous_us=moments.event_time_us.lag().over(by_user))
        asked = _ask_earlier(connection.to_pyarrow(dated), questions, skip_parts=True)
        tables.append(_weighted(asked, weight).select(tables[0].column_names).cast(tables[0].schema))
    return pa.concat_tables(tables)


def _weighted(questions: pa.Table, weight: float) -> pa.Table:
    return questions.append_column(WEIGHT, pa.array(np.full(questions.num_rows, weight)))


def _with_targets(bought: ir.Table, *more: str) -> ir.Table:
    pairs = bought.select("user_id", "event_time_us", *more, "item_id").distinct()
    return pairs.group_by("user_id", "event_time_us", *more).aggregate(
        targets=pairs.item_id.collect(order_by="item_id")
    )


def _ask_earlier(baskets: pa.Table, questions: QuestionConfig, *, skip_parts: bool) -> pa.Table:
    """Move each question to a random moment after the basket before; `skip_parts` leaves out baskets that follow too soon.

    The `period` stays that of the basket, so nothing bought in the eval period is a target of a train question.
    """
    baskets = baskets.sort_by([("event_time_us", "ascending"), ("user_id", "ascending")])
    moment = baskets["event_time_us"].to_numpy()
    previous = baskets["previous_us"].fill_null(-1).to_numpy()
    gap = np.where(previous < 0, 0, moment - previous)
    share = np.random.default_rng(_LAG_SEED).random(len(moment))
    lag = (share * np.minimum(gap, int(questions.lag_days * DAY_US))).astype(np.int64)
    kept = (previous < 0) | (gap >= int(questions.min_gap_days * DAY_US))
    place = baskets.schema.get_field_index("event_time_us")
    moved = baskets.set_column(place, "event_time_us", pa.array(moment - lag)).append_column(
        "bought_us", pa.array(moment)
    )
    moved = moved.drop_columns(["previous_us"])
    return moved.filter(pa.array(kept)) if skip_parts else moved


def _numbered(spine: pa.Table) -> pa.Table:
    ordered = spine.sort_by([("event_time_us", "ascending"), ("user_id", "ascending")])
    return ordered.append_column("query_num", pa.array(np.arange(spine.num_rows, dtype=np.int64)))


def with_history(questions: pa.Table, entries: pa.Table) -> pa.Table:
    """Add the history's lists, oldest first, to `questions`, whose `query_num` counts from 0 in order.

    `entries` are the rows of `history`, by `query_num` and falling `rank`. A question without any has empty lists.
    """
    lengths = np.bincount(entries["query_num"].to_numpy(), minlength=questions.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    for name, source in zip(HISTORY_COLUMNS, ("item_id", "age_days", "count"), strict=True):
        values = entries[source].combine_chunks()
        questions = questions.append_column(name, pa.ListArray.from_arrays(offsets, values))
    for source in (name for name in entries.column_names if name.startswith("num_")):
        lists = pa.ListArray.from_arrays(offsets, entries[source].combine_chunks())
        questions = questions.append_column(f"{HISTORY_COLUMNS[0]}_{source}", lists)
    return questions


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=64 * 1024)
