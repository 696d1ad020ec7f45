"""A log of what was shown with its probabilities and an exported model in, what the model would have earned there out.

Each shown product is one choice: at its place, given those above it, as its propensity says. The model's own choice
there is what its release answers: the product with the highest score of those that the log showed on that surface and
that don't stand above. So a place is judged by itself, the others left as the log has them. A choice earns 1 when the
product was clicked, put into the cart or bought.
"""

from __future__ import annotations

from typing import Final

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.events import IMPRESSIONS
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.evaluation.off_policy import Estimate, Log, doubly_robust, fold_tables, ips, snips
from endcap.features.dataset import FeatureTables, with_history
from endcap.features.point_in_time import buyer_features, history
from endcap.flows.columns_asked import columns_asked, described_users
from endcap.flows.scoring import ExportedModel
from endcap.workspace import tables as workspace_tables
from endcap.workspace.layout import Workspace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Shape suffixes: B = requests of a chunk, N = products, P = products that the log showed, R = logged rows

MAX_REQUESTS: Final = 5_000
"""Most requests that are looked at, spread over the log."""
_CHUNK = 64
_NO_SURFACE = ""
_COUNTS = ("num_clicks", "num_carts", "num_purchases")
_COLUMNS = (c.REQUEST_ID, c.USER_ID, c.ITEM_ID, c.TS_US, c.POSITION, c.PROPENSITY, c.SURFACE, *_COUNTS)
_SEED = 0


def estimates_from_log(
    workspace: Workspace, tables: FeatureTables, configuration: Configuration, exported: ExportedModel, report: Reporter
) -> list[Estimate]:
    """IPS, SNIPS and DR estimates, per shown product; none where the log of the test period has no propensities.

    Only requests from the test period on count: the model has learned nothing of what came after them.
    """
    if tables.split.kind != "time" or workspace_tables.version_in_force(workspace, IMPRESSIONS) is None:
        return []
    shown = _shown(workspace, tables.split.test_start_us)
    rows = shown.filter(pc.is_valid(shown[c.PROPENSITY]))
    if not rows.num_rows:
        report.event(
            "no off-policy estimates: no product that was shown in the test period has a propensity",
            num_shown=shown.num_rows,
        )
        return []
    requests = _requests(shown)
    questions = _questions(workspace, tables, configuration, requests)
    missing = sorted({tensor.name for tensor in exported.inputs} - set(questions.column_names))
    if missing:
        report.event("no off-policy estimates: the log can't be asked for some inputs", inputs=", ".join(missing))
        return []
    log = _log(shown, questions, exported)
    try:
        return [ips(log), snips(log), doubly_robust(log)]
    except InputError as error:
        report.event("no off-policy estimates", error=str(error))
        return []


def _shown(workspace: Workspace, start_us: int) -> pa.Table:
    """What was shown from a moment on, request by request, from the first place to the last; of many requests some."""
    with duckdb.session(workspace) as connection:
        rows = duckdb.scan_table(connection, workspace, IMPRESSIONS, columns=_COLUMNS)
        found = connection.to_pyarrow(rows.filter(rows[c.TS_US] >= start_us))
    order = [(c.TS_US, "ascending"), (c.REQUEST_ID, "ascending"), (c.POSITION, "ascending")]
    found = found.sort_by(order)
    requests = pc.unique(found[c.REQUEST_ID])
    if len(requests) <= MAX_REQUESTS:
        return found
    kept = requests.take(pa.array(np.linspace(0, len(requests) - 1, MAX_REQUESTS).astype(np.int64)))
    return found.filter(pc.is_in(found[c.REQUEST_ID], value_set=kept))


def _requests(shown: pa.Table) -> pa.Table:
    """One row a request, in the order in which they stand."""
    first = np.unique(_numbers(shown[c.REQUEST_ID]), return_index=True)[1]
    return shown.take(pa.array(np.sort(first)))


def _questions(
    workspace: Workspace, tables: FeatureTables, configuration: Configuration, requests: pa.Table
) -> pa.Table:
    """Buyer features as of each request."""
    name = configuration.features.history
    sequence = configuration.features.buyer[name].sequence if name else None
    spine = pa.table({
        "query_num": np.arange(requests.num_rows, dtype=np.int64),
        c.USER_ID: requests[c.USER_ID],
        "event_time_us": requests[c.TS_US],
    })  # fmt: skip
    with duckdb.session(workspace) as connection:
        asked, purchases = ibis.memtable(spine), ibis.memtable(tables.table("purchases"))
        users = described_users(
            connection, workspace, configuration.features, columns_asked(workspace, configuration.features)
        )
        featured = connection.to_pyarrow(buyer_features(asked, purchases, users).order_by("query_num"))
        entries = history(asked, purchases, sequence.max_length if sequence else 1)
        return with_history(featured, connection.to_pyarrow(entries.order_by("query_num", ibis.desc("rank"))))


def _log(shown: pa.Table, questions: pa.Table, exported: ExportedModel) -> Log:
    items = np.asarray(shown[c.ITEM_ID].to_pylist())
    pool, choices = np.unique(items, return_inverse=True)
    requests = _numbers(shown[c.REQUEST_ID])
    surfaces = np.unique(np.asarray(shown[c.SURFACE].fill_null(_NO_SURFACE).to_pylist()), return_inverse=True)[1]
    best = _best_at_each_place(exported, questions, pool.tolist(), choices, requests, surfaces)
    rewards = sum(shown[name].to_numpy() for name in _COUNTS) > 0
    rewards = rewards.astype(np.float64)
    has = shown[c.PROPENSITY].is_valid().to_numpy(zero_copy_only=False)
    rates, folds = fold_tables(choices[has], rewards[has], len(pool), seed=_SEED)
    # Where the model has no choice of its own, it earns what is expected of no product in particular.
    own = rates[folds, np.maximum(best[has], 0)]
    return Log(
        rewards=rewards[has],
        propensities=shown[c.PROPENSITY].filter(pa.array(has)).to_numpy().astype(np.float64),
        targets=(best == choices)[has].astype(np.float64),
        groups=_numbers(shown[c.USER_ID])[has],
        expected=rates[folds, choices[has]],
        expected_target=np.where(best[has] >= 0, own, rates.mean(axis=1)[folds]),
    )


def _best_at_each_place(
    exported: ExportedModel,
    questions: pa.Table,
    pool: list[str],
    choices: IntArray,
    requests: IntArray,
    surfaces: IntArray,
) -> IntArray:
    """The model's choice at each place, as a number of the pool; -1 where nothing of the pool is left.

    Only products that the log showed on the same surface are chosen among, and none that stands above.
    """
    rows_P = exported.index.rows_of(pool)
    on_surface = np.zeros((int(surfaces.max()) + 1, len(pool)), dtype=np.bool_)
    on_surface[surfaces, choices] = True
    starts = np.flatnonzero(np.diff(requests, prepend=-1))
    ends = np.append(starts[1:], len(requests))
    best = np.full(len(choices), -1, dtype=np.int64)
    for first in range(0, questions.num_rows, _CHUNK):
        scores_BN = exported.scores(exported.prepare(questions.slice(first, _CHUNK)))
        scores_BP = np.where(rows_P >= 0, scores_BN[:, np.maximum(rows_P, 0)], -np.inf)
        for number, scores_P in enumerate(scores_BP, start=first):
            for row in range(starts[number], ends[number]):
                left_P = np.where(on_surface[surfaces[row]], scores_P, -np.inf)
                chosen = int(left_P.argmax())
                best[row] = chosen if np.isfinite(left_P[chosen]) else -1
                scores_P[choices[row]] = -np.inf
    return best


def _numbers(column: pa.ChunkedArray) -> IntArray:
    """Values as numbers, in the order in which they first stand."""
    numbers: IntArray = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return numbers
