"""A file and a source's required columns in, nothing out when it fits, else an error that says what to mend."""

from __future__ import annotations

import difflib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.errors import InputError
from endcap.ingest.sources.protocol import Kind, Source


def check_file(source: Source, path: Path) -> int:
    """Check that `path` is a Parquet file with rows and the columns that `source` needs; return its number of rows.

    Only the file's footer is read. Raises InputError naming the file, the column, what was found and expected.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Give the path of a Parquet file for source {source.name}.")
    if not path.is_file():
        raise InputError(f"{path} is no file. Give the path of one Parquet file for source {source.name}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); a Parquet file was expected. Export it again.")
    try:
        with pq.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} can't be read as Parquet: {str(error).rstrip('.')}. Export it again, or copy it again in full."
        ) from error
    problems = [
        problem for required in source.required_columns if (problem := _problem(schema, required.name, required.kind))
    ]
    if problems:
        raise InputError(f"{path} doesn't fit source {source.name}: {'; '.join(problems)}.")
    if num_rows == 0:
        raise InputError(f"{path} has no rows. Export it again.")
    return num_rows


def _problem(schema: pa.Schema, name: str, kind: Kind) -> str | None:
    if schema.names.count(name) > 1:
        return f"column {name} stands {schema.names.count(name)} times, expected once"
    if name not in schema.names:
        near = difflib.get_close_matches(name.lower(), [found.lower() for found in schema.names], n=1)
        hint = next(
            (f" (did you mean {found} there?)" for found in schema.names if near and found.lower() == near[0]), ""
        )
        return f"column {name} is missing, expected {kind.value}; found columns {', '.join(schema.names)}{hint}"
    found = schema.field(name).type
    return None if _fits(found, kind) else f"column {name} holds {found}, expected {kind.value}"


def _fits(found: pa.DataType, kind: Kind) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    match kind:
        case Kind.TEXT:
            tests = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view]
        case Kind.INTEGER:
            tests = [pa.types.is_integer]
        case Kind.NUMBER:
            tests = [pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal]
        case Kind.TIMESTAMP:
            tests = [pa.types.is_timestamp]
    return any(test(found) for test in tests)
