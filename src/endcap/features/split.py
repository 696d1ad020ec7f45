"""Purchases in, the moments that divide train, eval and test out."""

from __future__ import annotations

import ibis.expr.types as ir
import msgspec
import numpy as np

from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Train is before `eval_start_us`, eval before `test_start_us`, test up to `end_us` (excluded)."""

    eval_start_us: int
    test_start_us: int
    end_us: int
    num_train: int
    num_eval: int
    num_test: int


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
