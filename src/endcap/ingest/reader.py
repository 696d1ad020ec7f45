"""Files of any kind in, one Ibis table of their raw rows with `row_number` out; what can't be split keeps its line.

Parquet is scanned where it lies. Text is read once into a temporary table, every cell as text: what a cell means is for
the source to say.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
from duckdb import Error as DuckDBError
from duckdb import OutOfMemoryException
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError, TransientError
from endcap.ingest.door import FileKind, column_names, csv_header, file_kind, parquet_footer
from endcap.ingest.lines import CleanStream, text_lines

MALFORMED_LINE: Final = "malformed_line"
"""Column with the text of a line that has not as many fields as the header, or is no JSON object; null elsewhere."""

_RESERVED: Final = (c.ROW_NUMBER, MALFORMED_LINE, "file_row_number")
_ROWS_PER_PIECE: Final = 50_000
# A row, such as one with a cell of 5 MB, has to fit into a block.
_BLOCK_BYTES: Final = 16 << 20


def read_rows(connection: Backend, paths: Sequence[Path], *, encoding: str = "utf-8") -> ir.Table:
    """All columns of the files, united by name, with `row_number` over all files and `malformed_line`.

    A column that files hold in different types becomes text. A column that bears a name of Endcap's own gets `_of_file`
    behind it. Raises InputError naming the file that can't be read.
    """
    parts = []
    for path in paths:
        column_names(path, encoding=encoding)
        kind = file_kind(path)
        if kind is FileKind.PARQUET:
            parts.append(scan_parquet(connection, path))
        elif kind is FileKind.CSV:
            parts.append(land(connection, path, *_csv_pieces(path, encoding)))
        else:
            parts.append(land(connection, path, *_json_pieces(path, encoding)))
    return united(parts)


def own_name(column: str) -> str:
    """The name under which a file's column is found in what `read_rows` gives."""
    return f"{column}_of_file" if column.lower() in _RESERVED else column


def scan_parquet(connection: Backend, path: Path) -> tuple[ir.Table, int]:
    """A Parquet file's rows with `row_number` and an empty `malformed_line`, lazily, and their number."""
    schema, num_rows = parquet_footer(path)
    place = "file_row_number"
    if any(name.lower() == place for name in schema.names):
        raise InputError(f"{path} has a column {place}, a name that is taken when reading; rename the column.")
    table = connection.read_parquet(str(path), file_row_number=True, hive_partitioning=False, binary_as_string=True)
    columns = {own_name(name): table[name] for name in table.columns if name != place}
    number = table[place].cast("int64")
    return table.select(**columns, **{c.ROW_NUMBER: number, MALFORMED_LINE: ibis.null("string")}), num_rows


def united(parts: Sequence[tuple[ir.Table, int]]) -> ir.Table:
    """Tables of known numbers of rows one behind the other, by name; a column of several types becomes text."""
    tables, first = [], 0
    for table, num_rows in parts:
        tables.append(table.mutate(**{c.ROW_NUMBER: (table[c.ROW_NUMBER] + first).cast("int64")}))
        first += num_rows
    if len(tables) == 1:
        return tables[0]
    types: dict[str, set[Any]] = {}
    for table in tables:
        for name, dtype in table.schema().items():
            types.setdefault(name, set()).add(dtype)
    chosen = {name: next(iter(found)) if len(found) == 1 else "string" for name, found in types.items()}
    shaped = [
        table.select(**{
            name: table[name].cast(dtype) if name in table.columns else ibis.null(dtype)
            for name, dtype in chosen.items()
        })
        for table in tables
    ]  # fmt: skip
    return functools.reduce(lambda left, right: left.union(right, distinct=False), shaped)


def land(connection: Backend, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[ir.Table, int]:
    """Rows of the text file at `path` as a temporary table, and their number."""
    num_rows = 0
    failures: list[InputError] = []

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal num_rows
        try:
            for batch in batches:
                num_rows += batch.num_rows
                yield batch
        except InputError as error:  # the engine would pass it on as a text of its own
            failures.append(error)
            raise

    name = f"raw_{uuid.uuid4().hex}"
    stream = f"{name}_stream"
    engine = connection.con
    try:
        engine.register(stream, pa.RecordBatchReader.from_batches(schema, counted()))
        try:
            engine.execute(f'CREATE TEMP TABLE "{name}" AS SELECT * FROM "{stream}"')  # noqa: S608 (names of our own)
        finally:
            engine.unregister(stream)
    except OutOfMemoryException as error:
        raise TransientError(
            f"{path} needs more memory than the engine may use: free some memory and try again."
        ) from error
    except (pa.ArrowException, DuckDBError) as error:
        raise (failures[0] if failures else _unreadable(path, error)) from error
    return connection.table(name), num_rows


def _unreadable(path: Path, error: Exception) -> InputError:
    first_line = str(error).partition("\n")[0].rstrip(".")
    return InputError(f"{path} can't be read to its end: {first_line}. Export it again, or copy it again in full.")


def _row_schema(names: Iterable[str]) -> pa.Schema:
    fields = [pa.field(own_name(name), pa.string()) for name in names]
    return pa.schema([*fields, pa.field(c.ROW_NUMBER, pa.int64()), pa.field(MALFORMED_LINE, pa.string())])


def _csv_pieces(path: Path, encoding: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    names, delimiter = csv_header(path, encoding)
    schema = _row_schema(names)
    return schema, _csv_batches(path, encoding, delimiter, schema)


def _csv_batches(path: Path, encoding: str, delimiter: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    malformed: list[tuple[int, str]] = []

    def keep(row: pa_csv.InvalidRow) -> str:
        # Numbers begin with 1 at the header.
        malformed.append((row.number - 2, row.text))
        return "skip"

    names = schema.names[:-2]
    stream = CleanStream(path, encoding)
    try:
        reader = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            # Row numbers are known on one thread alone.
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows_after_names=1
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep, ignore_empty_lines=True
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        place = num_used = 0
        for batch in reader:
            numbers, place, num_used = _places(place, batch.num_rows, malformed, num_used)
            empty = pa.nulls(batch.num_rows, pa.string())
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(numbers), empty], schema=schema)
    except (pa.ArrowException, UnicodeError) as error:
        raise _unreadable(path, error) from error
    finally:
        stream.close()
    yield from _malformed_batches(schema, malformed, place)


def _places(
    first: int, num_rows: int, malformed: Sequence[tuple[int, str]], num_used: int
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Places of the next good rows in the file, which skip those of malformed rows; the next place; malformed passed."""
    bad = np.array([place for place, _ in malformed[num_used:]], dtype=np.int64)
    # The i-th good row stands behind every malformed one that has at most i good rows before it.
    good_before = bad - first - np.arange(len(bad))
    places = np.arange(num_rows, dtype=np.int64)
    places += first + np.searchsorted(good_before, places, side="right")
    num_used += int(np.searchsorted(good_before, num_rows - 1, side="right"))
    return places, int(places[-1]) + 1 if num_rows else first, num_used


def _malformed_batches(schema: pa.Schema, malformed: Sequence[tuple[int, str]], after: int) -> Iterator[pa.RecordBatch]:
    """Rows for lines that couldn't be split. A quote without an end swallows lines: each is a row of its own again."""
    lines = [(place, text.split("\n")) for place, text in malformed]
    rows = [(place, texts[0]) for place, texts in lines]
    swallowed = [text for _, texts in lines for text in texts[1:] if text.strip()]
    first = max([after, *(place + 1 for place, _ in malformed)])
    rows += list(enumerate(swallowed, start=first))
    for start in range(0, len(rows), _ROWS_PER_PIECE):
        piece = rows[start : start + _ROWS_PER_PIECE]
        columns = [pa.nulls(len(piece), pa.string())] * (len(schema) - 2)
        columns += [pa.array([place for place, _ in piece], pa.int64()), pa.array([text for _, text in piece])]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _json_pieces(path: Path, encoding: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Objects with nested objects flattened to dotted names. The columns are known after a first pass over the file."""
    keys: dict[str, None] = {}
    for _, row, _ in json_rows(path, encoding):
        if row is not None:
            keys.update(dict.fromkeys(_flat(row)))
    folded: dict[str, str] = {}
    for key in keys:
        if folded.setdefault(key.lower(), key) != key:
            raise InputError(
                f"{path} has the keys {folded[key.lower()]} and {key}, which differ in case alone; rename one."
            )
    names = [key or "column_0" for key in keys]
    schema = _row_schema(names)

    def shaped(row: dict[str, Any]) -> dict[str, Any]:
        return {own_name(key or "column_0"): as_text(value) for key, value in _flat(row).items()}

    return schema, json_batches(json_rows(path, encoding), schema, shaped)


def json_rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Each line's place, its object (None where it holds none) and its text; blank lines are no rows."""
    place = 0
    for line in text_lines(path, encoding):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        yield place, row if isinstance(row, dict) else None, line
        place += 1


def json_batches(
    rows: Iterator[tuple[int, dict[str, Any] | None, str]],
    schema: pa.Schema,
    shaped: Callable[[dict[str, Any]], dict[str, Any]],
) -> Iterator[pa.RecordBatch]:
    """Rows in the schema, which ends with `row_number` and `malformed_line`; `shaped` gives the cells of an object."""
    piece: list[dict[str, Any]] = []
    for place, row, line in rows:
        cells = {MALFORMED_LINE: line} if row is None else shaped(row)
        piece.append({**cells, c.ROW_NUMBER: place})
        if len(piece) == _ROWS_PER_PIECE:
            yield pa.RecordBatch.from_pylist(piece, schema=schema)
            piece = []
    if piece:
        yield pa.RecordBatch.from_pylist(piece, schema=schema)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_text(value: Any) -> str | None:
    """A JSON value as the text of a cell; lists and objects stay JSON."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
