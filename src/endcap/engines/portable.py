"""Values in, expressions out that give the same types and texts on every engine, where Ibis alone would not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir


def always(value: ir.Value, dtype: str) -> ir.Value:
    """Cast even where the type seems to be that already.

    A sum of integers is int64 for Ibis and 128 bits wide for DuckDB, which writes it to files as a floating point
    number; `.cast("int64")` on it would be dropped.
    """
    return ops.Cast(value, ibis.dtype(dtype)).to_expr()


def nullable(table: ir.Table) -> ir.Table:
    """The same rows without promises on nulls, which unions compare."""
    return table.cast({name: dtype.copy(nullable=True) for name, dtype in table.schema().items()})


def _engines_md5(text: str) -> str:  # type: ignore[empty-body]
    """What the engine's own function takes and gives."""


_md5: Final[Callable[[ir.StringValue], ir.StringValue]] = ibis.udf.scalar.builtin(
    _engines_md5, name="md5", signature=(("string",), "string")
)


def md5_hex(text: ir.StringValue) -> ir.StringValue:
    """MD5 of the text's UTF-8 bytes as 32 lower-case hexadecimal digits; null of null.

    The one place in which digests are spelled: an engine without such a function gets its own words here.
    """
    return _md5(text)
