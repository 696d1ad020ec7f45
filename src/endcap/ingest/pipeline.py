"""A file of a known source in, checked tables of one dataset version and an account of every row out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from duckdb import Error as DuckDBError
from duckdb import OutOfMemoryException
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import EndcapError, InputError, TransientError
from endcap.engines import duckdb
from endcap.ingest import catalog, door, sessions
from endcap.ingest.sources import SOURCES
from endcap.ingest.sources.protocol import Source
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.layout import Workspace

STEP: Final = "ingest"
_WHOLE_FILE: Final = "all"
_WRITE_ORDER: Final = (
    contract.EVENTS,
    contract.ITEMS,
    contract.ITEM_PRICES,
    contract.USERS,
    contract.QUARANTINE,
)

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done (0 to 1)."""


class RowAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where every row of the file went; `num_rows` is the sum of the others."""

    num_rows: int
    num_purchases: int
    num_refunds: int
    num_duplicates: int
    quarantined: dict[str, int]


@dataclass(frozen=True)
class IngestResult:
    """What an ingest came to. `changed` is false when the tables already held exactly this."""

    account: RowAccount
    versions: dict[str, int]
    manifest_path: Path
    changed: bool


class _Outputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    account: RowAccount
    versions: dict[str, int]


def ingest_file(
    workspace: Workspace,
    source: str,
    path: Path,
    *,
    session_gap_minutes: int = contract.SESSION_GAP_MINUTES,
    replace: bool = False,
    progress: Progress | None = None,
) -> IngestResult:
    """Make the file at `path` the workspace's data.

    The file is the whole export of its source: the tables hold exactly its rows afterwards. Where the content is the
    same nothing is written; the tables come into force together, at the end. `replace` allows that dates which the
    tables hold are missing from the file.

    Raises InputError when the source is unknown, the file doesn't fit it or holds no good row, or dates would be lost.
    """
    report = progress or _silent
    if source not in SOURCES:
        raise InputError(f"There is no source {source!r}; the sources are: {', '.join(SOURCES)}.")
    if session_gap_minutes <= 0:
        raise InputError(f"session_gap_minutes is {session_gap_minutes}; expected a whole number above 0.")
    report("checking the file", 0.0)
    run = manifests.Run(workspace, STEP)
    with run.stage("check"):
        num_rows = door.check_file(SOURCES[source], path)
        described = manifests.describe_input(path)
        configuration = {"source": source, "session_gap_minutes": session_gap_minutes}
        key = _step_key(configuration, described.sha256)
        if done := _finished(workspace, key):
            report("nothing to do: this file is ingested already", 1.0)
            return done
    before = tables.current_dataset(workspace)
    account, contents = _transform(workspace, SOURCES[source], path, num_rows, session_gap_minutes, run, report)
    if not replace:
        _refuse_lost_dates(workspace, path, contents[contract.EVENTS])
    versions = _write(workspace, contents, run, report)
    changed = before is None or before.versions != versions or before.source != source
    # In this order: a dataset in force always has its run's manifest, and only a step that is wholly done is skipped.
    manifest_path = run.finish(
        inputs=[described], data_versions=versions, configuration=configuration, metrics=_metrics(account, contents)
    )
    if changed:
        tables.publish_dataset(workspace, tables.Dataset(source=source, run_id=run.run_id, versions=versions))
    outputs: dict[str, Any] = msgspec.to_builtins(_Outputs(account=account, versions=versions))
    ledger.record_entry(workspace, ledger.LedgerEntry(key=key, run_id=run.run_id, outputs=outputs))
    report("done", 1.0)
    return IngestResult(account=account, versions=versions, manifest_path=manifest_path, changed=changed)


def _silent(stage: str, share: float) -> None:
    del stage, share


def _step_key(configuration: Mapping[str, Any], file_digest: str) -> ledger.StepKey:
    source_module = type(SOURCES[configuration["source"]]).__module__
    return ledger.StepKey(
        step=STEP,
        partition=_WHOLE_FILE,
        inputs_digest=file_digest,
        configuration_digest=ledger.digest_of(configuration),
        code_version=ledger.code_version_of(
            __name__, source_module, catalog.__name__, sessions.__name__, contract.__name__
        ),
    )


def _finished(workspace: Workspace, key: ledger.StepKey) -> IngestResult | None:
    """The outcome under `key`, if it is done and its tables are still the ones in force."""
    entry = ledger.find_entry(workspace, key)
    dataset = tables.current_dataset(workspace)
    if entry is None or dataset is None:
        return None
    try:
        outputs = msgspec.convert(entry.outputs, _Outputs)
    except msgspec.ValidationError:
        return None
    manifest_path = workspace.runs / entry.run_id / manifests.RUN_MANIFEST
    if dataset.versions != outputs.versions or not manifest_path.is_file():
        return None
    # A newer version than the one in force is what an ingest that was cut short left behind.
    newest = {name: tables.table_version(workspace, name) for name in outputs.versions}
    if any(found is None or found < outputs.versions[name] for name, found in newest.items()):
        return None
    return IngestResult(account=outputs.account, versions=outputs.versions, manifest_path=manifest_path, changed=False)


def _transform(
    workspace: Workspace,
    source: Source,
    path: Path,
    num_rows: int,
    session_gap_minutes: int,
    run: manifests.Run,
    report: Progress,
) -> tuple[RowAccount, dict[str, pa.Table]]:
    with duckdb.session(workspace) as connection:
        report("reading and judging rows", 0.05)
        with run.stage("normalize"):
            raw = duckdb.scan_parquet(connection, path)
            rows = _materialize_rows(connection, source, raw, path)
            account = _account(connection, source, rows)
        _check_account(path, num_rows, account)
        report("finding sessions", 0.25)
        with run.stage("derive"):
            return account, _contents(connection, source, raw, rows, session_gap_minutes)


def _materialize_rows(connection: Backend, source: Source, raw: ir.Table, path: Path) -> ir.Table:
    try:
        return connection.create_table("judged_rows", _judge(source, raw), temp=True)
    except OutOfMemoryException as error:
        raise TransientError(
            f"{path} needs more memory than the engine may use: free some memory and try again."
        ) from error
    except DuckDBError as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(
            f"{path} can't be read to its end: {first_line}. Export it again, or copy it again in full."
        ) from error


def _judge(source: Source, raw: ir.Table) -> ir.Table:
    """Normalized rows with `is_duplicate`: every row whose content stood in an earlier row of the file."""
    rows = source.normalize(raw)
    same = ibis.window(group_by=rows[c.EVENT_ID], order_by=rows[c.ROW_NUMBER])
    return rows.mutate(is_duplicate=ibis.row_number().over(same) > 0)


def _account(connection: Backend, source: Source, rows: ir.Table) -> RowAccount:
    fate = ibis.cases(
        (rows["is_duplicate"], "duplicate"),
        (rows[c.REASON].notnull(), rows[c.REASON]),
        else_=rows[c.EVENT_TYPE],
    )
    counted = connection.to_pyarrow(rows.group_by(fate=fate).aggregate(num_rows=rows.count()))
    counts = dict(zip(counted["fate"].to_pylist(), counted["num_rows"].to_pylist(), strict=True))
    return RowAccount(
        num_rows=sum(counts.values()),
        num_purchases=counts.get(contract.PURCHASE, 0),
        num_refunds=counts.get(contract.REFUND, 0),
        num_duplicates=counts.get("duplicate", 0),
        quarantined={reason: counts[reason] for reason in source.reasons if reason in counts},
    )


def _check_account(path: Path, num_rows: int, account: RowAccount) -> None:
    parts = account.num_purchases + account.num_refunds + account.num_duplicates + sum(account.quarantined.values())
    if not num_rows == account.num_rows == parts:
        raise EndcapError(
            f"{path} has {num_rows} rows, but {parts} of {account.num_rows} were accounted for: nothing was written. "
            "Please report this."
        )
    if account.num_purchases == 0:
        found = ", ".join(f"{count} {reason}" for reason, count in account.quarantined.items())
        raise InputError(f"{path} holds no purchase that can be used ({found}); nothing was written. Check the export.")


def _contents(
    connection: Backend, source: Source, raw: ir.Table, rows: ir.Table, session_gap_minutes: int
) -> dict[str, pa.Table]:
    good = connection.create_table("good_rows", rows.filter(~rows["is_duplicate"] & rows[c.REASON].isnull()), temp=True)
    bad = rows.filter(~rows["is_duplicate"] & rows[c.REASON].notnull())
    events = sessions.with_sessions(good, gap_minutes=session_gap_minutes)
    day = (events[c.TS_US] // contract.US_PER_DAY).cast("int32")
    prices = connection.create_table("item_price_ranges", catalog.item_prices(good), temp=True)
    expressions = {
        contract.EVENTS: events.mutate(**{c.EVENT_DATE: day}).select(contract.EVENTS_TABLE.schema.names),
        contract.ITEMS: catalog.items(good, prices),
        contract.ITEM_PRICES: prices,
        contract.USERS: catalog.users(good),
        contract.QUARANTINE: _quarantine(source, raw, bad),
    }
    contents = {name: connection.to_pyarrow(expression) for name, expression in expressions.items()}
    return {name: tables.checked(contract.TABLES[name], content) for name, content in contents.items()}


def _quarantine(source: Source, raw: ir.Table, bad: ir.Table) -> ir.Table:
    """Rejected rows with their raw columns as one JSON object of strings."""
    joined = bad.select(c.ROW_NUMBER, c.REASON).inner_join(raw, c.ROW_NUMBER)
    texts = ibis.struct({column.name: joined[column.name].cast("string") for column in source.required_columns})
    to_json = ibis.udf.scalar.builtin(_to_json, name="to_json", signature=((texts.type(),), dt.string))
    return joined.select(c.ROW_NUMBER, c.REASON, **{c.RAW: to_json(texts).cast("string")})


def _to_json(value: Any) -> str:  # type: ignore[empty-body]
    """JSON text of a struct, as DuckDB and Spark both have it."""


def _refuse_lost_dates(workspace: Workspace, path: Path, events: pa.Table) -> None:
    kept = {str(date) for date in events.column(c.EVENT_DATE).unique().to_pylist()}
    lost = [date for date in tables.partition_dates(workspace, contract.EVENTS) if date not in kept]
    if lost:
        raise InputError(
            f"{path} lacks {len(lost)} dates that the workspace holds ({lost[0]} to {lost[-1]}): a file is the whole export "
            "of its source, so they would be lost. Give the full export, or ingest with replace to drop them on purpose."
        )


def _write(
    workspace: Workspace, contents: Mapping[str, pa.Table], run: manifests.Run, report: Progress
) -> dict[str, int]:
    versions = {}
    for place, name in enumerate(_WRITE_ORDER):
        report(f"writing {name}", 0.5 + 0.1 * place)
        with run.stage(f"write_{name}"):
            versions[name] = tables.write_table(workspace, name, contents[name]).version
    return versions


def _metrics(account: RowAccount, contents: Mapping[str, pa.Table]) -> dict[str, float | int]:
    counts: dict[str, float | int] = {
        "num_rows": account.num_rows,
        "num_purchases": account.num_purchases,
        "num_refunds": account.num_refunds,
        "num_duplicates": account.num_duplicates,
        "num_items": contents[contract.ITEMS].num_rows,
        "num_users": contents[contract.USERS].num_rows,
        "num_sessions": len(contents[contract.EVENTS].column(c.SESSION_ID).unique()),
    }
    return counts | {f"num_quarantined_{reason}": count for reason, count in account.quarantined.items()}
