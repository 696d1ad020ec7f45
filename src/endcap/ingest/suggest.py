"""An unknown file in, the source or the mapping to ingest it with out, and what would become of its rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import ibis
from duckdb import Error as DuckDBError
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.ingest import door
from endcap.ingest.sources import files, logs, make_source
from endcap.ingest.sources.guess import UTF_8, Finding, Guess, head_of
from endcap.ingest.sources.guess_export import guess_export
from endcap.ingest.sources.mapping import EventMapping
from endcap.ingest.sources.protocol import Batch, Source

MAX_ROWS: Final = 100_000
"""Rows that are tried."""

_MEMORY: Final = "1GB"


@dataclass(frozen=True)
class Trial:
    """What became of the first rows: kept by event type, lost by reason, and rows equal to an earlier one."""

    num_rows: int
    kept: dict[str, int]
    lost: dict[str, int]
    num_duplicates: int


@dataclass(frozen=True)
class Suggestion:
    """How to ingest a file."""

    path: Path
    source: str
    mapping: EventMapping | None
    """What to save as a mapping file; None for a source that needs none."""
    findings: list[Finding] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """What somebody has to decide before the mapping can be used."""
    trial: Trial | None = None
    """None when the proposal can't be tried before the doubts are settled."""

    @property
    def is_sure(self) -> bool:
        """Whether it can be used as it is."""
        return not self.doubts


def suggest(path: Path) -> Suggestion:
    """Look at a file, or at the first file of a folder, and try what it proposes on up to `MAX_ROWS` rows.

    Raises InputError when there is nothing that can be read.
    """
    found = door.parts(path, files.NAME)
    if known := _known_source(path, found):
        return _known_suggestion(path, known, found)
    first, guess = guess_export(path)
    name = next(name for name, file in found.items() if file == first)
    trial = None
    if "FILL_IN" not in [column for cell in guess.mapping.columns.values() for column in cell.columns]:
        trial = _try(files.files(guess.mapping), Batch(name, (first,)), guess.mapping.encoding)
    return Suggestion(path, files.NAME, guess.mapping, guess.findings, _all_doubts(guess, trial), trial)


def _known_suggestion(path: Path, known: str, found: dict[str, Path]) -> Suggestion:
    source = make_source(known)
    where = path.parent if path.is_file() and known == "staging" else path
    batches = source.batches(where)
    trial = _try(source, batches[0]) if batches else None
    names = ", ".join(sorted(_signature(known, found)))
    finding = Finding("source", names, "sure", f"names as {known} has them")
    return Suggestion(path, known, None, [finding], _few_kept(trial), trial)


def _all_doubts(guess: Guess, trial: Trial | None) -> list[str]:
    return [*guess.doubts, *_few_kept(trial)]


def _few_kept(trial: Trial | None) -> list[str]:
    if trial is None or trial.num_rows == 0 or sum(trial.kept.values()) + trial.num_duplicates > 0:
        return []
    return ["no row would be kept: look at the reasons"]


# In this order: a shape that says more stands before one that says less.
_SHAPES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("ga4", ("event_timestamp", "event_name", "user_pseudo_id")),
    ("google_retail", ("eventType", "visitorId", "eventTime")),
    ("personalize", ("USER_ID", "ITEM_ID", "TIMESTAMP")),
    ("gorse", ("FeedbackType", "UserId", "ItemId")),
    ("gorse", ("feedback_type", "user_id", "item_id")),
    ("rees46", ("event_time", "event_type", "product_id", "category_code", "user_session")),
    ("online_retail", ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")),
)


def _known_source(path: Path, found: dict[str, Path]) -> str | None:
    """The source whose names the export bears, if it is one that has a source of its own."""
    tops = {name.split("/")[0] for name in found}
    if path.is_dir() and all(any(holds) for holds in _log_words(found)):
        return "logs"
    if "interactions.parquet" in tops or path.name == "interactions.parquet":
        return "staging"
    for file in found.values():
        columns = set(door.column_names(file))
        for source, names in _SHAPES:
            if set(names) <= columns and _is_readable(source, path):
                return source
    return None


def _log_words(found: Iterable[str]) -> list[list[bool]]:
    """For each of the two kinds of logs, whether each part of the files' names begins with its word."""
    parts = {part for name in found for part in name.split("/")}
    return [[part.startswith(word) for part in parts] for word in (logs.REQUESTS, logs.FEEDBACK)]


def _is_readable(source: str, path: Path) -> bool:
    """Whether the source takes the export: GA4's days are told by names of files, invoices are one Parquet file."""
    try:
        return bool(make_source(source).batches(path))
    except InputError:
        return False


def _signature(source: str, found: dict[str, Path]) -> Sequence[str]:
    return next((names for name, names in _SHAPES if name == source), tuple(found)[:3])


def _try(source: Source, batch: Batch, encoding: str = UTF_8) -> Trial:
    """Run the source over the head of a batch."""
    with tempfile.TemporaryDirectory() as folder:
        connection = ibis.duckdb.connect(memory_limit=_MEMORY, threads=2, temp_directory=folder)
        try:
            connection.raw_sql("SET TimeZone = 'UTC'")
            return _tried(connection, source, _head(batch, Path(folder), encoding))
        except DuckDBError as error:
            first_line = str(error).partition("\n")[0]
            raise InputError(f"{batch.paths[0]} can't be read to its end: {first_line}. Export it again.") from error
        finally:
            connection.disconnect()


def _head(batch: Batch, folder: Path, encoding: str) -> Batch:
    """The batch with its first file cut short; other files, such as requests, in full."""
    head = head_of(batch.paths[0], folder, MAX_ROWS, encoding)
    return Batch(batch.name, (head, *batch.paths[1:]))


def _tried(connection: Backend, source: Source, batch: Batch) -> Trial:
    rows = source.read(connection, batch)
    judged = source.normalize(rows.filter(rows[c.ROW_NUMBER] < MAX_ROWS))
    same = ibis.window(group_by=judged[c.EVENT_ID], order_by=judged[c.ROW_NUMBER])
    judged = judged.select(c.REASON, c.EVENT_TYPE, is_duplicate=ibis.row_number().over(same) > 0)
    counted = judged.group_by([c.REASON, c.EVENT_TYPE, "is_duplicate"]).aggregate(num_rows=judged.count())
    kept: dict[str, int] = {}
    lost: dict[str, int] = {}
    num_duplicates = 0
    for row in connection.to_pyarrow(counted).to_pylist():
        if row["is_duplicate"]:
            num_duplicates += row["num_rows"]
        elif row[c.REASON] is None:
            kept[row[c.EVENT_TYPE]] = kept.get(row[c.EVENT_TYPE], 0) + row["num_rows"]
        else:
            lost[row[c.REASON]] = lost.get(row[c.REASON], 0) + row["num_rows"]
    num_rows = sum(kept.values()) + sum(lost.values()) + num_duplicates
    return Trial(num_rows, _largest_first(kept), _largest_first(lost), num_duplicates)


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
