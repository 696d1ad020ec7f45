"""A table of a warehouse (BigQuery, or a folder of Delta or Parquet files) in, Parquet files with the columns asked for out."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.engines.failures import first_line

ROWS_PER_FILE: Final = 1_000_000
"""Rows of one file at most, but for the batches that they arrive in."""

_PAGE_ROWS: Final = 10_000
_RETRY_S: Final = 120.0
_CALL_S: Final = 60.0
_EMULATOR: Final = "BIGQUERY_EMULATOR_HOST"


def is_delta(path: Path) -> bool:
    """Whether a folder is a Delta table: which of its files count is told by its log alone."""
    return path.is_dir() and DeltaTable.is_deltatable(str(path))


def export_delta(path: Path, folder: Path, columns: Sequence[str] | None = None) -> int:
    """Write the newest version of the Delta table at `path` below `folder`, and return the number of rows.

    `columns` are those wanted; those that it lacks are left out. Raises ArtifactError when the table is damaged.
    """
    try:
        dataset = DeltaTable(str(path)).to_pyarrow_dataset()
        names = [name for name in columns or dataset.schema.names if name in dataset.schema.names]
        # One thread, file after file: the same table gives the same files.
        fragments = sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path))
        batches = (
            batch
            for fragment in fragments
            for batch in fragment.to_batches(schema=dataset.schema, columns=names, use_threads=False)
        )
        return _write(batches, pa.schema([dataset.schema.field(name) for name in names]), folder)
    except (DeltaError, pa.ArrowInvalid, FileNotFoundError) as error:
        raise ArtifactError(f"The Delta table {path} can't be read: {first_line(error)}. Restore it.") from error


def export_bigquery(project: str, table: str, folder: Path, columns: Sequence[str]) -> int:
    """Write the table `PROJECT.DATASET.TABLE` below `folder`, and return the number of rows.

    `columns` are those wanted; those that it lacks are left out. Raises InputError when there is no such table or it may
    not be read, TransientError when the service can't be reached.
    """
    bigquery = _library("google.cloud.bigquery")
    name = f"{project}.{table}"
    with _explained(name):
        client = _client(bigquery, project)
        retry = bigquery.DEFAULT_RETRY.with_timeout(_RETRY_S)
        try:
            found = client.get_table(name, retry=retry, timeout=_CALL_S)
            fields = [field for field in found.schema if field.name in columns]
            if not fields:
                has = ", ".join(field.name for field in found.schema) or "none"
                raise InputError(
                    f"The table {name} has none of the columns {', '.join(columns)}; it has {has}. Name another table."
                )
            rows = client.list_rows(found, selected_fields=fields, page_size=_PAGE_ROWS, retry=retry, timeout=_CALL_S)
            return _write(rows.to_arrow_iterable(), None, folder)
        finally:
            client.close()


def _client(bigquery: Any, project: str) -> Any:
    if os.environ.get(_EMULATOR):  # it asks for no credentials, and looking for some would reach for the network
        credentials = _library("google.auth.credentials").AnonymousCredentials()
        return bigquery.Client(project=project, credentials=credentials)
    return bigquery.Client(project=project)


def _write(batches: Iterable[pa.RecordBatch], schema: pa.Schema | None, folder: Path) -> int:
    """Parts of some rows each; a table without rows has one, so that its columns are known."""
    folder.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    num_rows = num_parts = num_in_part = 0
    try:
        for batch in batches:
            if writer is None or num_in_part >= ROWS_PER_FILE:
                if writer is not None:
                    writer.close()
                writer = pq.ParquetWriter(folder / f"part-{num_parts:05d}.parquet", batch.schema)
                num_parts, num_in_part = num_parts + 1, 0
            writer.write_batch(batch)
            num_rows, num_in_part = num_rows + batch.num_rows, num_in_part + batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is None and schema is not None:
        pq.write_table(schema.empty_table(), folder / "part-00000.parquet")
    return num_rows


@contextmanager
def _explained(name: str) -> Iterator[None]:
    errors, transport = _library("google.api_core.exceptions"), _library("requests.exceptions")
    auth = _library("google.auth.exceptions")
    try:
        yield
    except errors.NotFound as error:
        raise InputError(
            f"There is no table {name}: {first_line(error)}. Check PROJECT_ID and the table's name, or make it."
        ) from error
    except (errors.Forbidden, errors.Unauthorized, auth.DefaultCredentialsError) as error:
        raise InputError(
            f"The table {name} may not be read: {first_line(error)}. Give the job's account roles/bigquery.dataViewer."
        ) from error
    except (errors.RetryError, errors.ServerError, errors.TooManyRequests, auth.TransportError) as error:
        raise _unreachable(name, error) from error
    except (transport.ConnectionError, transport.Timeout, transport.ChunkedEncodingError) as error:
        raise _unreachable(name, error) from error
    except errors.GoogleAPICallError as error:
        raise InputError(f"The table {name} can't be read: {first_line(error)}.") from error


def _unreachable(name: str, error: Exception) -> TransientError:
    return TransientError(f"The table {name} can't be reached: {first_line(error)}. Start the job again.")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            "Reading tables of BigQuery takes Google's client: pip install endcap[gcp]. Or give REQUESTS_TABLE and "
            "FEEDBACK_TABLE as folders."
        ) from error
