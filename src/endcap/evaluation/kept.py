"""What a run recommended and what was then bought in, two files in the run's folder out, and read again.

Customers stand in them under the workspace's pseudonyms, which are the same in every run of one workspace.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.evaluation.compare import SystemRankings
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.files import ITEM_IDS, USER_KEY
from endcap.evaluation.metrics import NO_ITEM
from endcap.workspace.atomic import write_bytes

RANKINGS = "rankings.parquet"
TRUTH = "truth.parquet"
COUNTING = "counting"
IS_NEW = "is_new_to_customer"
NUM_EARLIER_BASKETS = "num_earlier_baskets"


def kept_tables(
    system: SystemRankings, customers: HeldOutCustomers, user_keys: Sequence[str], item_ids: pa.Array
) -> tuple[pa.Table, pa.Table]:
    """The two tables: rankings, one row per counting and customer, and truth, one row per product bought.

    `user_keys` are in the order of the customers; `item_ids` are those of all product numbers, the unknown ones included.
    """
    keys = pa.array(user_keys, pa.string())
    bought = customers.bought
    truth = pa.table({
        USER_KEY: keys.take(pa.array(bought.rows)),
        c.ITEM_ID: item_ids.take(pa.array(bought.values)),
        IS_NEW: ~customers.earlier.contain(bought.rows, bought.values),
        NUM_EARLIER_BASKETS: customers.num_earlier_baskets[bought.rows],
    })  # fmt: skip
    return kept_rankings(system, user_keys, item_ids), truth


def kept_rankings(system: SystemRankings, user_keys: Sequence[str], item_ids: pa.Array) -> pa.Table:
    """The table of rankings alone: one row per counting and customer."""
    keys = pa.array(user_keys, pa.string())
    parts = []
    for counting in Counting:
        ranked = system.of(counting)
        held = ranked != NO_ITEM
        offsets = np.concatenate(([0], np.cumsum(held.sum(axis=1)))).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), item_ids.take(pa.array(ranked[held])))
        parts.append(pa.table({COUNTING: pa.repeat(counting.value, len(keys)), USER_KEY: keys, ITEM_IDS: lists}))
    return pa.concat_tables(parts)


def keep(folder: Path, rankings: pa.Table, truth: pa.Table) -> None:
    """Write both into a run's folder, each whole or not at all."""
    for name, table in ((RANKINGS, rankings), (TRUTH, truth)):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(folder / name, sink.getvalue())


def has_kept(folder: Path) -> bool:
    """Whether a run's folder holds both files."""
    return (folder / RANKINGS).is_file() and (folder / TRUTH).is_file()


def read_kept(folder: Path, counting: Counting) -> tuple[pa.Table, pa.Table]:
    """Rankings and truth under one counting. Raises ArtifactError when a file is missing or can't be read."""
    try:
        rankings, truth = pq.read_table(folder / RANKINGS), pq.read_table(folder / TRUTH)
        rankings = rankings.filter(pc.equal(rankings[COUNTING], counting.value)).drop_columns([COUNTING])
        if counting is Counting.NEW_TO_CUSTOMER:
            truth = truth.filter(truth[IS_NEW])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArtifactError(
            f"{folder} should hold the run's {RANKINGS} and {TRUTH}; they can't be read: {error}. Evaluate the run's release "
            "again (endcap evaluate RELEASE) and compare that run."
        ) from error
    return rankings, truth
