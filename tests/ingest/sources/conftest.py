"""Exports written by hand into files, and what a source makes of them as Python rows."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from ibis.backends.duckdb import Backend

from endcap.ingest.sources.protocol import CATALOG_TYPES, NORMALIZED_TYPES, OPTIONAL_TYPES, Source

Rows = list[dict[str, Any]]


def _lines(rows: Iterable[Any]) -> str:
    return "".join((row if isinstance(row, str) else orjson.dumps(row).decode()) + "\n" for row in rows)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file below the test's folder: text as it is, a list as JSON-lines, bytes untouched; `.gz` is packed."""

    def run(name: str, content: str | bytes | list[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = _lines(content) if isinstance(content, list) else content
        raw = data.encode() if isinstance(data, str) else data
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return run


@pytest.fixture
def ingest(connection: Backend) -> Callable[[Source, Path], dict[str, Rows]]:
    """Every batch of an export by name, normalized, in the order of the rows; types and row numbers are checked."""

    def run(source: Source, path: Path) -> dict[str, Rows]:
        found = {}
        for batch in source.batches(path):
            raw = source.read(connection, batch)
            rows = source.normalize(raw)
            assert {name: str(dtype).replace("!", "") for name, dtype in rows.schema().items()} == {
                name: dtype.replace(", ", ", ") for name, dtype in {**NORMALIZED_TYPES, **OPTIONAL_TYPES}.items()
            }
            table = connection.to_pyarrow(rows.order_by("row_number"))
            assert table.num_rows == connection.to_pyarrow(raw.count()).as_py()
            assert table.column("row_number").to_pylist() == list(range(table.num_rows))
            found[batch.name] = table.to_pylist()
        assert list(found) == sorted(found)
        return found

    return run


@pytest.fixture
def events(ingest: Callable[[Source, Path], dict[str, Rows]]) -> Callable[[Source, Path], Rows]:
    """The normalized rows of an export of one batch."""

    def run(source: Source, path: Path) -> Rows:
        (rows,) = ingest(source, path).values()
        return rows

    return run


@pytest.fixture
def products(connection: Backend) -> Callable[[Source, Path], dict[str, dict[str, Any]]]:
    """An export's catalog by item."""

    def run(source: Source, path: Path) -> dict[str, dict[str, Any]]:
        catalog = source.catalog(connection, path)
        assert catalog is not None
        table = connection.to_pyarrow(catalog)
        assert table.column_names == list(CATALOG_TYPES)
        return {row["item_id"]: row for row in table.to_pylist()}

    return run
