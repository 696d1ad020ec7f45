from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.ingest.sources import SOURCES, configuration_of, make_source, modules_of
from endcap.ingest.sources.protocol import Source
from endcap.ingest.sources.stated import SideAccount, stated

MAPPING = """
columns:
  user_id: visitor
  item_id: sku
  event_type: what
  ts: {column: when, format: ms}
  price: {column: [price, unit_price], optional: true}
  quantity: {column: qty, optional: true}
event_types: {view: view_item, cart: add_to_cart, buy: purchase, return: refund, home: ignore}
"""
HEADER = "visitor,sku,what,when,price,qty\n"
LINE = "v1,s1,buy,1769817600001,2.50,3\n"
US = 1_769_817_600_001_000

Events = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


@pytest.fixture
def mapped(write: Write) -> Callable[..., Source]:
    def run(text: str = MAPPING) -> Source:
        return make_source("files", {"mapping": str(write("conf/mapping.yaml", text))})

    return run


def test_a_purchase_by_hand(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    (row,) = events(mapped(), write("a.csv", HEADER + LINE))
    content = [
        "event_type=purchase", "item_id=s1", "price_units=25000", "quantity_whole=3", f"ts_us={US}", "user_id=v1",
        "value_units=75000",
    ]  # fmt: skip
    assert row.pop("event_id") == hashlib.md5("\x1f".join(content).encode(), usedforsecurity=False).hexdigest()
    assert {name: value for name, value in row.items() if value is not None} == {
        "row_number": 0, "user_id": "v1", "item_id": "s1", "event_type": "purchase", "ts_us": US,
        "value": Decimal("7.5000"), "quantity": 3, "price": Decimal("2.5000"),
    }  # fmt: skip


def test_csv_json_and_parquet_say_the_same(
    ingest: Callable[..., Any], write: Write, tmp_path: Path, mapped: Callable[..., Source]
) -> None:
    write("x/a.csv", HEADER + LINE)
    row = {"visitor": "v1", "sku": "s1", "what": "buy", "when": "1769817600001", "price": "2.50", "qty": "3"}
    write("x/b/c.jsonl", [row])
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x" / "d.parquet")
    found = ingest(mapped(), tmp_path / "x")
    assert list(found) == ["files/a.csv", "files/b/c.jsonl", "files/d.parquet"]
    assert len({repr(rows) for rows in found.values()}) == 1


def test_only_what_means_something_makes_the_id(
    ingest: Callable[..., Any], write: Write, tmp_path: Path, mapped: Callable[..., Source]
) -> None:
    text = MAPPING + "properties: [rating]\n"
    lines = [LINE.replace("\n", ",4.50\n"), LINE.replace("\n", ",5\n"), LINE.replace("s1", "s2").replace("\n", ",\n")]
    write("x/a.csv", HEADER.replace("\n", ",rating\n") + "".join(lines))
    typed = pa.table({
        "when": [1769817600001] * 3, "visitor": ["v1"] * 3, "sku": ["s1", "s1", "s2"], "rating": [4.5, 5.0, None],
        "what": ["buy"] * 3, "price": [Decimal("2.5")] * 3, "qty": [3.0] * 3, "page": ["/a", "/b", "/c"],
    })  # fmt: skip
    pq.write_table(typed, tmp_path / "x" / "b.parquet")
    csv_rows, parquet_rows = ingest(mapped(text), tmp_path / "x").values()
    ids = [row["event_id"] for row in csv_rows]
    assert len(set(ids)) == 3
    assert [row["event_id"] for row in parquet_rows] == ids


def test_rows_that_mean_nothing_are_equal_only_as_a_whole(
    events: Events, write: Write, mapped: Callable[..., Source]
) -> None:
    lines = [
        LINE.replace("v1", ""),
        LINE.replace("v1", "").replace("2.50", "2.5"),
        LINE.replace("v1", ""),
        "x\n",
        "y\n",
    ]
    rows = events(mapped(), write("a.csv", HEADER + "".join(lines)))
    assert all(row["reason"] for row in rows)
    first, other, again, one, two = (row["event_id"] for row in rows)
    assert first == again
    assert len({first, other, one, two}) == 4


def test_the_value_that_the_shop_gives_stands(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    source = mapped(MAPPING.replace("columns:", "columns:\n  value: {column: total}"))
    lines = [("buy", "2.50", "3", "6.75"), ("buy", "2.50", "3", ""), ("buy", "", "3", "6"), ("return", "2.50", "3", "-7"),
             ("buy", "2.50", "1", "0"), ("view", "2.50", "2", "0"), ("view", "2.50", "", "")]  # fmt: skip
    text = HEADER.replace("\n", ",total\n")
    text += "".join(f"v1,s1,{what},1769817600001,{price},{qty},{total}\n" for what, price, qty, total in lines)
    rows = events(source, write("a.csv", text))
    assert [(row["price"], row["value"]) for row in rows] == [
        (Decimal("2.5"), Decimal("6.75")),
        (Decimal("2.5"), Decimal("7.5")),
        (Decimal(2), Decimal(6)),
        (Decimal("2.5"), Decimal(7)),
        (Decimal("2.5"), Decimal(0)),
        (Decimal("2.5"), Decimal(5)),
        (Decimal("2.5"), None),
    ]


def test_refunds_and_amounts(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    lines = [
        ("return", "-2.5", "-3"), ("buy", "-2.5", "1"), ("buy", "1", "-1"), ("buy", "1", "0"), ("buy", "1", "1.5"),
        ("buy", "", ""), ("view", "0", ""), ("buy", "0", "2"), ("buy", "1e3", "1"), ("buy", "1_0", "1"), ("buy", "1", "1e7"),
        ("buy", "inf", "1"), ("buy", "nan", "1"), ("home", "", ""),
    ]  # fmt: skip
    text = HEADER + "".join(f"v1,s1,{what},1769817600001,{price},{qty}\n" for what, price, qty in lines)
    rows = events(mapped(), write("a.csv", text))
    assert [(row["reason"], row["price"], row["quantity"], row["value"]) for row in rows] == [
        (None, Decimal("2.5"), 3, Decimal("7.5")),
        ("bad_price", None, None, None),
        ("bad_quantity", None, None, None),
        ("bad_quantity", None, None, None),
        ("bad_quantity", None, None, None),
        (None, None, 1, None),
        (None, None, None, None),
        (None, Decimal(0), 2, Decimal(0)),
        (None, Decimal(1000), 1, Decimal(1000)),
        ("bad_price", None, None, None),
        ("amount_out_of_range", None, None, None),
        ("bad_price", None, None, None),
        (None, None, 1, None),  # nan says that there is none
        ("event_type_not_used", None, None, None),
    ]


def test_lines_that_cannot_be_split_keep_their_place(
    events: Events, write: Write, mapped: Callable[..., Source]
) -> None:
    text = HEADER + LINE + "v1,s1\n" + "\n" + LINE + 'v1,"s\n1",buy,1769817600001,,\n' + "a,b,c,d,e,f,g\n" + LINE
    rows = events(mapped(), write("a.csv", text))
    assert [row["reason"] for row in rows] == [None, "malformed_row", None, None, "malformed_row", None]
    assert rows[3]["item_id"] == "s\n1"


def test_a_quote_without_an_end_loses_no_line(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    rows = events(mapped(), write("a.csv", HEADER + LINE + 'v1,"s1,buy,1,,\n' + LINE + LINE))
    assert [row["reason"] for row in rows] == [None, "malformed_row", "malformed_row", "malformed_row"]


def test_windows_lines_marks_semicolons_and_other_encodings(
    events: Events, write: Write, mapped: Callable[..., Source]
) -> None:
    text = (HEADER + LINE.replace("s1", "ü")).replace(",", ";").replace("\n", "\r\n")
    for data in (b"\xef\xbb\xbf" + text.encode(), b"\xff\xfe" + text.encode("utf-16-le")):
        (row,) = events(mapped(), write("a.csv", data))
        assert (row["item_id"], row["reason"]) == ("ü", None)
    (row,) = events(mapped("encoding: latin-1\n" + MAPPING), write("a.csv", text.encode("latin-1")))
    assert (row["item_id"], row["reason"]) == ("ü", None)


def test_bytes_that_are_no_text(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    rows = events(mapped(), write("a.csv", HEADER.encode() + LINE.encode() + LINE.replace("s1", "é").encode("latin-1")))
    assert [row["reason"] for row in rows] == [None, "broken_text"]


def test_a_cell_of_five_megabytes(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    rows = events(mapped(), write("a.csv", HEADER + LINE + LINE.replace("s1", "x" * 5_000_000) + LINE))
    assert [row["reason"] for row in rows] == [None, "text_too_long", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty \(0 bytes\)"),
        ("a.csv", HEADER, r"a\.csv has no rows"),
        ("a.csv", "\n\n", r"a\.csv has no rows"),
        ("a.csv", HEADER.replace("sku", "SKUs") + LINE, r"column sku is missing \(did you mean SKUs there\?\)"),
        ("a.csv", HEADER.replace("qty", "Price") + LINE, "columns price and Price, which differ in case"),
        ("a.jsonl", "[1, 2]\n", "is one JSON array"),
        ("a.jsonl", "nonsense\n", "no line with a JSON object"),
        ("a.parquet", "PAR1 and no more", "can't be read as Parquet"),
        ("a.xlsx", "?", "can't be read by its name"),
        ("a.csv.gz", b"", r"a\.csv\.gz can't be read to its end|has no rows"),
    ],
)
def test_files_that_do_not_fit(
    events: Events, write: Write, mapped: Callable[..., Source], name: str, content: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        events(mapped(), write(name, content))


def test_a_torn_archive(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    path = write("a.csv.gz", HEADER + LINE * 1000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.csv\.gz can't be read to its end"):
        events(mapped(), path)


def test_a_folder_with_what_cannot_be_read(write: Write, mapped: Callable[..., Source]) -> None:
    folder = write("x/a.csv", HEADER + LINE).parent
    write("x/b.zip", "?")
    with pytest.raises(InputError, match=r"1 files that can't be read, such as b\.zip"):
        mapped().batches(folder)


def test_renamed_and_added_columns(ingest: Callable[..., Any], write: Write, mapped: Callable[..., Source]) -> None:
    write("x/1.csv", "visitor,sku,what,when\nv1,s1,view,1769817600001\n")
    path = write("x/2.csv", "visitor,sku,what,when,unit_price\nv1,s1,view,1769817600001,4\n").parent
    (first,), (second,) = ingest(mapped(), path).values()
    assert (first["price"], second["price"]) == (None, Decimal(4))


def test_names_of_the_readers_own(events: Events, write: Write, mapped: Callable[..., Source]) -> None:
    source = mapped(MAPPING.replace("sku", "row_number"))
    (row,) = events(source, write("a.csv", HEADER.replace("sku", "row_number") + LINE))
    assert (row["row_number"], row["item_id"]) == (0, "s1")


@pytest.mark.parametrize(
    ("form", "zone", "cell", "us"),
    [
        ("iso", "UTC", "2026-01-31T00:00:00.000001Z", 1_769_817_600_000_001),
        ("iso", "UTC", "2026-01-31 01:00:00+01:00", 1_769_817_600_000_000),
        ("iso", "UTC", "2026-01-31", 1_769_817_600_000_000),
        ("iso", "Europe/Oslo", "2026-01-31 01:00:00", 1_769_817_600_000_000),
        ("iso", "Europe/Oslo", "2026-01-31 00:00:00Z", 1_769_817_600_000_000),
        ("iso", "UTC", "infinity", None),
        ("iso", "UTC", "today", None),
        ("iso", "UTC", "2026-13-01", None),
        ("s", "UTC", "1769817600", 1_769_817_600_000_000),
        ("s", "UTC", "1769817600.0000019", 1_769_817_600_000_001),
        ("s", "UTC", "1.7698176e9", 1_769_817_600_000_000),
        ("ms", "UTC", "1769817600001", 1_769_817_600_001_000),
        ("us", "UTC", "1769817600000001", 1_769_817_600_000_001),
        ("ns", "UTC", "1769817600000001999", 1_769_817_600_000_001),
        ("s", "UTC", "99999999999999999999999999", None),
        ("s", "UTC", "soon", None),
        ("%d/%m/%Y %H:%M", "UTC", "31/01/2026 00:00", 1_769_817_600_000_000),
        ("%d/%m/%Y %H:%M", "America/New_York", "30/01/2026 19:00", 1_769_817_600_000_000),
        ("%d/%m/%Y %H:%M", "UTC", "01/31/2026 00:00", None),
    ],
)
def test_moments(
    events: Events, write: Write, mapped: Callable[..., Source], form: str, zone: str, cell: str, us: int | None
) -> None:
    text = MAPPING.replace("format: ms", f"format: '{form}', timezone: {zone}")
    (row,) = events(mapped(text), write("a.csv", HEADER + LINE.replace("1769817600001", cell)))
    assert (row["ts_us"], row["reason"]) == (us, "unreadable_time" if us is None else None)


def test_typed_columns_of_parquet(events: Events, mapped: Callable[..., Source], tmp_path: Path) -> None:
    table = pa.table({
        "visitor": pa.array([17850.0, 1.5, float("nan")]), "sku": pa.array([1, 2, 3], pa.uint64()),
        "what": pa.array(["buy"] * 3).dictionary_encode(), "when": pa.array([1769817600001.0] * 3),
        "price": pa.array([Decimal("2.50")] * 3), "qty": pa.array([3, 3, 3], pa.int8()), "tags": [["a"], [], None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    rows = events(mapped(), tmp_path / "a.parquet")
    assert [(row["user_id"], row["item_id"], row["ts_us"], row["value"], row["reason"]) for row in rows] == [
        ("17850", "1", US, Decimal("7.5"), None),
        ("1.5", "2", US, Decimal("7.5"), None),
        (None, "3", US, Decimal("7.5") if False else None, "missing_user"),
    ]


def test_a_catalog_of_its_own(
    ingest: Callable[..., Any], products: Callable[..., Any], write: Write, mapped: Callable[..., Source]
) -> None:
    text = (
        MAPPING
        + """
name: shop
properties: [page]
catalog:
  path: catalog/items.csv
  columns:
    item_id: id
    title: name
    valid_from: {column: since, format: s}
    category: {column: path, separator: /}
    price: {column: cents, divide_by: 100, decimal: ","}
    in_stock: {column: sold_out, negate: true}
"""
    )
    path = write("x/a.csv", HEADER.replace("\n", ",page\n") + LINE.replace("\n", ",/home\n")).parent
    write(
        "x/catalog/items.csv",
        'id,name,since,path,cents,sold_out\ns1,Mug,1769817600,Home / Kitchen,"250,5",no\n,x,,,,\n',
    )
    source = mapped(text)
    ((name, (row,)),) = ingest(source, path).items()
    assert (name, row["properties"]) == ("shop/a.csv", '{"page":"/home"}')
    assert products(source, path) == {
        "s1": {
            "item_id": "s1", "valid_from_us": 1_769_817_600_000_000, "title": "Mug", "category": "Home > Kitchen",
            "brand": None, "group_id": None, "price": Decimal("2.505"), "currency": None, "in_stock": True,
        }
    }  # fmt: skip


def test_what_became_of_each_row_about_products(
    connection: Backend, products: Callable[..., Any], write: Write, mapped: Callable[..., Source]
) -> None:
    catalog = """
catalog:
  path: items.csv
  columns: {item_id: id, title: name, valid_from: {column: since, format: s}, price: price, in_stock: stock}
"""
    path = write("x/a.csv", HEADER + LINE).parent
    lines = [
        "s1,Old mug,1769817600,2,yes", "s1,Mug,1769817600,2.5,yes", "s2,Plate,soon,4,yes", ",Nobody,1769817600,1,yes",
        "s3,Cup,,free,perhaps", "s4,Spoon,1769817600,0,", "s5,torn",
    ]  # fmt: skip
    write("x/items.csv", "id,name,since,price,stock\n" + "".join(f"{line}\n" for line in lines))
    source = mapped(MAPPING + catalog)
    found = products(source, path)
    assert {name: (row["title"], row["valid_from_us"], row["price"]) for name, row in found.items()} == {
        "s1": ("Mug", 1_769_817_600_000_000, Decimal("2.5")),
        "s3": ("Cup", 0, None),
        "s4": ("Spoon", 1_769_817_600_000_000, None),
    }
    word = stated(connection, source, path)
    assert word is not None
    assert word.account == SideAccount(
        num_rows=7,
        left_out={"malformed_row": 1, "missing_item": 1, "unreadable_time": 1, "repeated": 1},
        weakened={"bad_price": 2, "bad_stock": 1},
    )
    assert word.account.num_kept == connection.to_pyarrow(word.rows.count()).as_py() == 3
    assert stated(connection, mapped(), path) is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("user_id: visitor", "usr_id: visitor", r"columns\.usr_id is no key \(did you mean user_id\?\)"),
        ("user_id: visitor", "title: t", r"columns\.user_id \(or guest_id\) is missing"),
        ("view_item", "look", r"event_types\.view is 'look'"),
        ("format: ms", "format: days", r"columns\.ts\.format is 'days'"),
        ("format: ms", "format: ms, timezone: Mars/X", r"timezone is 'Mars/X'"),
        ("format: ms", "formt: ms", r"formt is no key \(did you mean format\?\)"),
        ("item_id: sku", "item_id: 7", r"columns\.item_id is 7"),
        ("item_id: sku", "item_id: {constant: a, column: b}", "needs one of column, constant"),
        ("columns:", "columns: [", "can't be read as YAML"),
        ("columns:", "encoding: zlib\ncolumns:", "encoding is 'zlib'"),
        ("event_types:", "catalog: {path: ../x, columns: {item_id: a}}\nevent_types:", r"catalog\.path is '\.\./x'"),
        ("columns:", "a: !!python/object/apply:os.system [ls]\ncolumns:", "can't be read as YAML"),
    ],
)
def test_mappings_that_cannot_be_used(mapped: Callable[..., Source], old: str, new: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        mapped(MAPPING.replace(old, new, 1))


def test_making_sources(write: Write, mapped: Callable[..., Source]) -> None:
    with pytest.raises(InputError, match="There is no source 'nothing'"):
        make_source("nothing")
    with pytest.raises(InputError, match="Source ga4 has no option mapping; it has none"):
        make_source("ga4", {"mapping": "x"})
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        make_source("files", {"mapping": "none.yaml"})
    with pytest.raises(InputError, match="needs to know what the columns of"):
        make_source("files").batches(write("a.csv", HEADER + LINE))
    assert configuration_of(mapped())["event_types"]["home"] == "ignore"
    assert configuration_of(SOURCES["ga4"]) == {}
    assert "endcap.ingest.sources.ga4" in modules_of(SOURCES["ga4"])


def test_without_a_mapping_clear_columns_are_enough(events: Events, write: Write) -> None:
    path = write("a.csv", "user_id,item_id,event_type,event_time\nu,i,view,2026-01-31 00:00:00\n")
    (row,) = events(make_source("files", {}, path), path)
    assert (row["user_id"], row["event_type"], row["ts_us"], row["reason"]) == (
        "u",
        "view_item",
        1_769_817_600_000_000,
        None,
    )
    path = write("b.csv", "user_id,customer_id,item_id,event_time\nu,c,i,2026-01-31 00:00:00\n")
    with pytest.raises(InputError, match=r"user_id may be user_id or customer_id(.|\n)*columns:"):
        make_source("files", {}, path)


CELL = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["1769817600001", "-1", "1e400", "view", "buy", "\\N", "9" * 30, "infinity", "NaN", "0x1F", '"', "\n"]
    ),
    st.floats().map(str),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CELL, min_size=6, max_size=6), min_size=1, max_size=8))
def test_any_text_gives_one_judged_row_for_each(
    rows: list[list[str]], connection: Backend, write: Write, mapped: Callable[..., Source]
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([HEADER.strip().split(","), *rows])
    source, path = mapped(), write("a.csv", buffer.getvalue())
    (batch,) = source.batches(path)
    raw = source.read(connection, batch)
    judged = connection.to_pyarrow(source.normalize(raw).order_by("row_number")).to_pylist()
    assert [row["row_number"] for row in judged] == list(range(len(rows)))
    for row in judged:
        assert row["reason"] is None or row["reason"] in source.reasons
        assert row["event_id"]
        if row["reason"] is None:
            assert row["user_id"]
            assert row["ts_us"] == US
            assert row["event_type"] in ("view_item", "purchase")
