"""A path in, the files below it, their kind and their column names out, else an error that says what to mend."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.errors import InputError
from endcap.ingest.lines import text_lines

if TYPE_CHECKING:  # sources import this module
    from endcap.ingest.sources.protocol import Kind, RequiredColumn


class FileKind(Enum):
    """How a file holds its rows; the value is how messages name it."""

    PARQUET = "Parquet"
    CSV = "CSV"
    JSON = "JSON-lines"


_SUFFIXES: Final = {
    ".parquet": FileKind.PARQUET,
    ".pq": FileKind.PARQUET,
    ".csv": FileKind.CSV,
    ".tsv": FileKind.CSV,
    ".txt": FileKind.CSV,
    ".json": FileKind.JSON,
    ".jsonl": FileKind.JSON,
    ".ndjson": FileKind.JSON,
}
_UNREADABLE: Final = (".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".rar", ".xlsx", ".xls", ".avro", ".orc")
_DELIMITERS: Final = (",", ";", "\t", "|")
_KINDS: Final = "Parquet, CSV or JSON-lines (.parquet, .csv, .tsv, .jsonl, .json; text also with .gz)"
# The first lines tell which columns JSON objects have; a later line may have more.
_NUM_SNIFFED_LINES: Final = 1_000


class ParquetSource(Protocol):
    """A source whose exports are Parquet files of exactly known columns."""

    @property
    def name(self) -> str:
        """How the command line names the source."""

    @property
    def required_columns(self) -> tuple[RequiredColumn, ...]:
        """What every file must have; further columns are ignored."""


def file_kind(path: Path) -> FileKind | None:
    """What the file's name says it is; None when it says nothing that can be read."""
    name = path.name.lower()
    text_name = name.removesuffix(".gz")
    kind = _SUFFIXES.get(Path(text_name).suffix)
    return None if kind is FileKind.PARQUET and text_name != name else kind


def parts(path: Path, source: str) -> dict[str, Path]:
    """The readable files at `path` (a file, or a folder and all below it) by relative name, in the order of the names.

    Names that begin with `_` or `.` are left out, as are files of other kinds such as notes. Raises InputError when
    nothing is left, or when a file holds data in a form that can't be read.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Give the path of a file or a folder for source {source}.")
    if path.is_file():
        if file_kind(path) is None:
            raise InputError(f"{path} can't be read by its name; expected {_KINDS}. Convert or rename it.")
        return {path.name: path}
    found = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    seen = [(name, file) for name, file in found if not any(part[0] in "_." for part in name.split("/"))]
    foreign = [name for name, _ in seen if name.lower().endswith(_UNREADABLE) or name.lower().endswith(".parquet.gz")]
    if foreign:
        raise InputError(
            f"{path} holds {len(foreign)} files that can't be read, such as {foreign[0]}; expected {_KINDS}. "
            "Unpack or convert them, or move them elsewhere."
        )
    readable = {name: file for name, file in seen if file_kind(file) is not None}
    if not readable:
        raise InputError(f"{path} holds no file that can be read; expected {_KINDS}. Give the folder of the export.")
    return readable


def column_names(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """The file's columns: a Parquet footer's, a CSV header's, or the keys of the first JSON objects.

    Raises InputError when the file is missing, empty, damaged, or names a column twice.
    """
    check_present(path)
    kind = file_kind(path)
    if kind is None:
        raise InputError(f"{path} can't be read by its name; expected {_KINDS}. Convert or rename it.")
    if kind is FileKind.PARQUET:
        names = list(parquet_footer(path)[0].names)
    elif kind is FileKind.CSV:
        names = csv_header(path, encoding)[0]
    else:
        names = _json_keys(path, encoding)
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.lower(), name)
        if other is not name:
            raise InputError(
                f"{path} has the columns {other} and {name}, which differ in case at most; expected each once. "
                "Rename one of them."
            )
    return names


def check_present(path: Path) -> None:
    """Raise InputError unless `path` is a file with content."""
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    if not path.is_file():
        raise InputError(f"{path} is no file. Give the path of one file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); expected rows. Export it again.")


def parquet_footer(path: Path) -> tuple[pa.Schema, int]:
    """A Parquet file's schema and number of rows, by its footer alone. Raises InputError when it is damaged."""
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, int(file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} can't be read as Parquet: {str(error).rstrip('.')}. Export it again, or copy it again in full."
        ) from error


def csv_header(path: Path, encoding: str = "utf-8") -> tuple[list[str], str]:
    """The columns of a CSV file's first line and its delimiter: the one of `, ; tab |` that the line has most of."""
    first = next(text_lines(path, encoding), "")
    if not first.strip():
        raise InputError(
            f"{path} has no header line; expected the names of the columns. Export it again with a header."
        )
    delimiter = max(_DELIMITERS, key=first.count)
    names = [name.strip() for name in next(csv.reader(io.StringIO(first), delimiter=delimiter))]
    return [name or f"column_{place}" for place, name in enumerate(names, start=1)], delimiter


def _json_keys(path: Path, encoding: str) -> list[str]:
    keys: dict[str, None] = {}
    num_objects = 0
    for place, line in enumerate(text_lines(path, encoding)):
        if place == 0 and line.lstrip().startswith("["):
            raise InputError(
                f"{path} is one JSON array; expected one JSON object a line. Convert it, such as with jq -c '.[]'."
            )
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            keys.update(dict.fromkeys(row))
            num_objects += 1
        if place + 1 >= _NUM_SNIFFED_LINES:
            break
    if num_objects == 0:
        raise InputError(f"{path} has no line with a JSON object; expected one a line. Export it again.")
    return list(keys)


def has_rows(path: Path, *, encoding: str = "utf-8") -> bool:
    """Whether the file holds anything beside its header."""
    match file_kind(path):
        case FileKind.PARQUET:
            return parquet_footer(path)[1] > 0
        case FileKind.CSV:
            lines = (line for line in text_lines(path, encoding) if line.strip())
            return next(lines, None) is not None and next(lines, None) is not None
        case _:
            return any(line.strip() for line in text_lines(path, encoding))


def check_has_rows(path: Path, *, encoding: str = "utf-8") -> None:
    """Raise InputError when the file has a header at most."""
    check_present(path)
    if not has_rows(path, encoding=encoding):
        raise InputError(f"{path} has no rows. Export it again.")


def check_columns(path: Path, found: Sequence[str], wanted: Sequence[Sequence[str]], source: str) -> None:
    """Raise InputError unless one name of each of `wanted` is among the columns `found` of the file at `path`."""
    problems = [
        f"column {' or '.join(names)} is missing{_hint(names[0], found)}"
        for names in wanted
        if not any(name in found for name in names)
    ]
    if problems:
        raise InputError(
            f"{path} doesn't fit source {source}: {'; '.join(problems)}. Found columns: {', '.join(found)}."
        )


def check_file(source: ParquetSource, path: Path) -> int:
    """Check that `path` is a Parquet file with rows and the columns that `source` needs; return its number of rows.

    Only the file's footer is read. Raises InputError naming the file, the column, what was found and expected.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Give the path of a Parquet file for source {source.name}.")
    if not path.is_file():
        raise InputError(f"{path} is no file. Give the path of one Parquet file for source {source.name}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); a Parquet file was expected. Export it again.")
    schema, num_rows = parquet_footer(path)
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
        found_names = ", ".join(schema.names)
        return (
            f"column {name} is missing, expected {kind.value}; found columns {found_names}{_hint(name, schema.names)}"
        )
    found = schema.field(name).type
    return None if _fits(found, kind) else f"column {name} holds {found}, expected {kind.value}"


def _hint(name: str, found: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [other.lower() for other in found], n=1)
    return next((f" (did you mean {other} there?)" for other in found if near and other.lower() == near[0]), "")


def _fits(found: pa.DataType, kind: Kind) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    tests = {
        "text": [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view],
        "integer": [pa.types.is_integer],
        "number": [pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal],
        "timestamp": [pa.types.is_timestamp],
    }
    return any(test(found) for test in tests[kind.value])
