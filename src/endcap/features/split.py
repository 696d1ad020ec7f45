"""Purchases in, what belongs to train, eval and test out: by time, by each customer's last baskets, or by customer."""

from __future__ import annotations

from typing import Final, Literal

import ibis
import ibis.expr.types as ir
import msgspec
import numpy as np

from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError
from endcap.engines.portable import md5_hex

SplitKind = Literal["time", "leave_last_out", "random"]

PERIOD: Final = "period"
TRAIN: Final = "train"
EVAL: Final = "eval"
TEST: Final = "test"
CONTEXT: Final = "context"
"""What customers of the eval or test part (`random`) bought before their last basket: known, but asked in no question."""

_HASH_DIGITS = 8


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By time, train is before `eval_start_us`, eval before `test_start_us`, test up to `end_us` (excluded).

    Other kinds have no such moments: eval and test "start" at `end_us`, as of which their catalog stands. The numbers
    count purchases; those of `CONTEXT` are in none.
    """

    eval_start_us: int
    test_start_us: int
    end_us: int
    num_train: int
    num_eval: int
    num_test: int
    kind: SplitKind = "time"


def split_purchases(purchases: ir.Table, config: SplitConfig) -> Split:
    """Divide purchases as configured. Raises InputError when a part would be empty."""
    if config.kind == "time":
        return split_by_time(purchases, config)
    marked = _by_customer(purchases, config)
    counted = marked.group_by(PERIOD).aggregate(num=marked.count(), last_us=marked["ts_us"].max()).to_pyarrow()
    num = dict(zip(counted[PERIOD].to_pylist(), counted["num"].to_pylist(), strict=True))
    if all(num.get(part) for part in (TRAIN, EVAL, TEST)):
        end_us = max(counted["last_us"].to_pylist()) + 1
        return Split(end_us, end_us, end_us, num[TRAIN], num[EVAL], num[TEST], config.kind)
    found = ", ".join(f"{num.get(part, 0):,} for {part}" for part in (TRAIN, EVAL, TEST))
    raise InputError(
        f"The {config.kind} split leaves a part empty: found purchases: {found}; expected some in each. Customers with "
        "fewer than two baskets (three, for eval and test of leave_last_out) are never asked. Ingest more, or change split.*."
    )


def split_by_time(purchases: ir.Table, config: SplitConfig) -> Split:
    """Cut at moments, so that purchases of one moment (a basket) stay together; shares are met as nearly as that allows.

    Raises InputError when a period would be empty.
    """
    counted = purchases.group_by("ts_us").aggregate(num=lambda t: t.count()).order_by("ts_us").to_pyarrow()
    moments, until = np.asarray(counted["ts_us"]), np.cumsum(np.asarray(counted["num"]))
    total = int(until[-1]) if len(until) else 0

    def moment_at(share: float) -> int:
        """The moment of the row at this share of all rows in time order."""
        row = min(int(total * share + 1e-9), total - 1)
        return int(np.searchsorted(until, row, side="right"))

    if total:
        test = moment_at(1 - config.test_fraction)
        evaluation = moment_at(1 - config.test_fraction - config.eval_fraction)
        counts = (
            int(until[evaluation - 1]) if evaluation else 0,
            int(until[test - 1] - until[evaluation - 1]) if evaluation else 0,
            total - int(until[test - 1]) if test else 0,
        )
        if all(counts):
            return Split(int(moments[evaluation]), int(moments[test]), int(moments[-1]) + 1, *counts)
    raise InputError(
        f"The time split leaves a period empty: found {total} purchases at {len(moments)} moments, with "
        f"eval_fraction={config.eval_fraction} and test_fraction={config.test_fraction}. Ingest more, or change split.*."
    )


def with_periods(purchases: ir.Table, config: SplitConfig, split: Split) -> ir.Table:
    """Add `period` to purchases: `train`, `eval`, `test` or `context`."""
    if split.kind != "time":
        return _by_customer(purchases, config)
    ts_us = purchases["ts_us"]
    by_time = (ts_us < split.eval_start_us).ifelse(TRAIN, (ts_us < split.test_start_us).ifelse(EVAL, TEST))
    return purchases.mutate(**{PERIOD: by_time})


def _by_customer(purchases: ir.Table, config: SplitConfig) -> ir.Table:
    """Purchases of one customer and moment are one basket: they stay together."""
    moments = purchases.select("user_id", "ts_us").distinct()
    from_last = ibis.window(group_by="user_id", order_by=ibis.desc("ts_us"))
    counted = moments.mutate(
        place=ibis.row_number().over(from_last), num=moments.count().over(ibis.window(group_by="user_id"))
    )
    place, num = counted["place"], counted["num"]
    if config.kind == "leave_last_out":
        period = ibis.cases(((place == 0) & (num >= 2), TEST), ((place == 1) & (num >= 3), EVAL), else_=TRAIN)
    else:
        # Digests are compared as text: a share of customers is a share of the first digits' range.
        text = ibis.literal(f"{config.seed}\x1f") + counted["user_id"]
        digest = md5_hex(text).substr(0, _HASH_DIGITS)
        is_test = digest < _share(config.test_fraction)
        is_eval = ~is_test & (digest < _share(config.test_fraction + config.eval_fraction))
        is_asked = (place == 0) & (num >= 2)
        period = ibis.cases(
            (is_test & is_asked, TEST), (is_eval & is_asked, EVAL), (is_test | is_eval, CONTEXT), else_=TRAIN
        )
    marked = counted.select(marked_user_id="user_id", marked_us="ts_us", **{PERIOD: period})
    joined = purchases.inner_join(
        marked, [purchases["user_id"] == marked["marked_user_id"], purchases["ts_us"] == marked["marked_us"]]
    )
    return joined.drop("marked_user_id", "marked_us")


def _share(fraction: float) -> str:
    return f"{int(fraction * 16**_HASH_DIGITS):0{_HASH_DIGITS}x}"
