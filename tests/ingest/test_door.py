from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.door import check_file
from endcap.ingest.sources.online_retail import OnlineRetail

SOURCE = OnlineRetail()


def test_counts_the_rows_of_a_file_that_fits(invoices: Callable[..., Path], line: Any) -> None:
    assert check_file(SOURCE, invoices(line(), line())) == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet does not exist"):
        check_file(SOURCE, tmp_path / "none.parquet")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        check_file(SOURCE, tmp_path)


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(InputError, match=r"a\.parquet is empty \(0 bytes\)"):
        check_file(SOURCE, tmp_path / "a.parquet")


def test_no_rows(invoices: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="has no rows"):
        check_file(SOURCE, invoices())


@pytest.mark.parametrize("content", [b"InvoiceNo,StockCode\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_no_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet can't be read as Parquet"):
        check_file(SOURCE, tmp_path / "a.parquet")


def test_truncated(invoices: Callable[..., Path], line: Any) -> None:
    path = invoices(line())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="can't be read as Parquet"):
        check_file(SOURCE, path)


def test_missing_column_and_the_nearest_name(invoices: Callable[..., Path], line: Any) -> None:
    path = invoices(line())
    table = pq.read_table(path)
    names = ["Stockcode" if name == "StockCode" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), path)
    with pytest.raises(InputError) as caught:
        check_file(SOURCE, path)
    message = str(caught.value)
    assert message.startswith(f"{path} doesn't fit source online_retail: column StockCode is missing, expected text;")
    assert "did you mean Stockcode" in message


def test_wrong_types_are_all_named(invoices: Callable[..., Path], line: Any) -> None:
    path = invoices(line())
    table = pq.read_table(path)
    for name in ("Quantity", "InvoiceDate"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.string()))
    pq.write_table(table, path)
    with pytest.raises(InputError) as caught:
        check_file(SOURCE, path)
    assert "column Quantity holds string, expected integer" in str(caught.value)
    assert "column InvoiceDate holds string, expected timestamp" in str(caught.value)


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([["1"], ["2"]], names=["InvoiceNo", "InvoiceNo"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column InvoiceNo stands 2 times"):
        check_file(SOURCE, tmp_path / "a.parquet")
