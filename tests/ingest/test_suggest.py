from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.cli.suggest import run_suggest
from endcap.contracts.errors import InputError
from endcap.ingest.sources import configuration_of, make_source
from endcap.ingest.suggest import Suggestion, Trial, suggest


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, content: str | list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "".join(orjson.dumps(row).decode() + "\n" for row in content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def columns(suggestion: Suggestion) -> dict[str, Any]:
    assert suggestion.mapping is not None
    content: dict[str, Any] = suggestion.mapping.as_dict()["columns"]
    return content


def test_a_clickstream_with_plain_names(export: Callable[..., Path]) -> None:
    text = (
        "visitorId,itemId,event,timestamp\n"
        + "1,2,addtocart,1433221332117\n" * 2
        + "1,,view,1433221332118\n3,4,transaction,x\n"
    )
    found = suggest(export("a.csv", text))
    assert (
        columns(found)
        == {
            "user_id": "visitorId",
            "item_id": "itemId",
            "event_type": "event",
            "ts": {"column": "timestamp", "format": "ms"},
        }
        or found.doubts
    )
    assert found.source == "files"


def test_milliseconds_are_told_from_seconds(export: Callable[..., Path]) -> None:
    rows = [{"customer": {"id": f"c{n}"}, "sku": n, "action": "click", "ts": 1433221332117 + n} for n in range(20)]
    found = suggest(export("a.jsonl", rows))
    assert columns(found)["ts"] == {"column": "ts", "format": "ms"}
    assert found.trial is None  # nobody knows what names the user
    assert found.doubts == ["no column names a user: fill in columns.user_id"]


def test_a_mapping_that_works_as_it_is(export: Callable[..., Path], tmp_path: Path) -> None:
    good = 'u,s,AddToCart,31/01/2026 10:00,"1,50",Home > Kitchen\n'
    bad = ",s,AddToCart,31/01/2026 10:00,,\n"
    path = export(
        "a.csv",
        "customer_id,product_sku,event_name,created_at,price,category\n" + good * 3 + good.replace("u,", "v,") + bad,
    )
    found = suggest(path)
    assert found.doubts == []
    assert [(finding.field, finding.sureness) for finding in found.findings[:2]] == [
        ("user_id", "sure"),
        ("item_id", "likely"),
    ]
    assert columns(found)["ts"] == {"column": "created_at", "format": "%d/%m/%Y %H:%M"}
    assert columns(found)["price"] == {"column": "price", "decimal": ","}
    assert found.trial == Trial(5, {"add_to_cart": 2}, {"missing_user": 1}, 2)
    assert found.mapping is not None
    saved = tmp_path / "mapping.yaml"
    saved.write_text(found.mapping.as_yaml(), encoding="utf-8")
    assert make_source("files", {"mapping": str(saved)}).configuration == found.mapping.as_dict()  # type: ignore[attr-defined]


def test_a_file_of_products_beside_it_becomes_the_catalog(export: Callable[..., Path], tmp_path: Path) -> None:
    events = export("x/events.csv", "visitor,sku,event,ts\nu,s1,view,2026-01-01\nu,s2,buy,2026-01-02\n")
    export(
        "x/a_products.csv", "id,name,price,available,category\ns2,Mug,2.5,yes,Home/Mugs\ns9,Plate,4,no,Home/Plates\n"
    )
    export("x/b_parts.csv", "sku,name\nz1,Bolt\n")
    notes = export("x/notes.txt", "")  # a neighbour that can't be read
    for path in (events, tmp_path / "x"):
        found = suggest(path)
        assert found.doubts == []
        assert found.trial == Trial(2, {"view_item": 1, "purchase": 1}, {}, 0)
        assert found.mapping is not None
        assert found.mapping.as_dict()["catalog"] == {
            "path": "a_products.csv",
            "columns": {
                "item_id": "id", "title": "name", "category": {"column": "category", "separator": "/"},
                "price": "price", "in_stock": "available",
            },
        }  # fmt: skip
        assert [(f.field, f.why) for f in found.findings if f.field == "catalog"] == [
            ("catalog", "it names 1 of the 2 products looked at")
        ]
        notes.unlink(missing_ok=True)
    (tmp_path / "x" / "b_parts.csv").unlink()
    source = make_source("files", {}, tmp_path / "x")
    assert [batch.name for batch in source.batches(tmp_path / "x")] == ["files/events.csv"]
    assert "catalog" not in configuration_of(make_source("files", {}, events))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_text_that_is_no_utf8(tmp_path: Path, encoding: str) -> None:
    sign = "\u2019" if encoding == "cp1252" else "\x81"  # which cp1252 lacks
    path = tmp_path / "a.csv"
    path.write_bytes(f"user_id,item_id,event_type,ts\nu,café{sign},view,2026-01-01\n".encode(encoding))
    found = suggest(path)
    assert found.mapping is not None
    assert found.mapping.encoding == encoding
    assert [doubt for doubt in found.doubts if f"was read as {encoding}" in doubt]
    assert found.trial == Trial(1, {"view_item": 1}, {}, 0)


def test_a_cell_of_several_lines_at_the_end_of_the_head_is_not_cut(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("endcap.ingest.suggest.MAX_ROWS", 2)
    line = "u,i{},view,2026-01-01,{}\n"
    text = "user_id,item_id,event_type,ts,title\n" + line.format(1, "Mug") + line.format(2, '"Red\nblue ""mug\n"""')
    found = suggest(export("a.csv", text + line.format(3, "Plate")))
    assert found.trial == Trial(2, {"view_item": 2}, {}, 0)


def test_days_and_months_that_could_be_either(export: Callable[..., Path]) -> None:
    found = suggest(export("a.csv", "user_id,item_id,event_type,date\n" + "u,s,view,01/02/2026\n" * 3))
    assert any("%d/%m/%Y or %m/%d/%Y" in doubt for doubt in found.doubts)


def test_order_lines_are_taken_for_purchases_with_a_doubt(tmp_path: Path) -> None:
    row = {
        "household_id": "1",
        "product_id": 5,
        "quantity": 2.0,
        "sales_value": 3.0,
        "basket_id": 9,
        "transaction_timestamp": datetime(2026, 1, 1),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t.parquet")
    found = suggest(tmp_path / "t.parquet")
    assert columns(found)["event_type"] == {"constant": "purchase"}
    assert columns(found)["value"] == "sales_value"
    assert found.trial == Trial(1, {"purchase": 1}, {}, 0)
    assert not found.is_sure


def test_words_that_nobody_knows(export: Callable[..., Path]) -> None:
    found = suggest(export("a.csv", "user_id,item_id,event_type,ts\nu,i,view,2026-01-01\nu,i,ponder,2026-01-01\n"))
    assert [doubt for doubt in found.doubts if "ponder" in doubt]
    assert found.trial is not None
    assert found.trial.lost == {"unknown_event_type": 1}


GA4 = {"event_timestamp": "1769817600000000", "event_name": "search", "user_pseudo_id": "d"}
RETAIL = {"eventType": "search", "visitorId": "v", "eventTime": "2026-01-31T00:00:00Z"}
GORSE = {"FeedbackType": "read", "UserId": "u", "ItemId": "i", "Timestamp": "2026-01-31"}
REES46 = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
REQUEST = {"request_id": "r", "user_key": "k", "request_time": "2026-01-31", "item_ids": ["b"]}
FEEDBACK = {"request_id": "r", "item_id": "b", "event_type": "click", "event_time": "2026-01-31"}


@pytest.mark.parametrize(
    ("source", "files", "kept"),
    [
        ("ga4", {"events_20260131.json": [GA4]}, {"search": 1}),
        ("google_retail", {"a.jsonl": [RETAIL]}, {"search": 1}),
        ("personalize", {"interactions.csv": "USER_ID,ITEM_ID,TIMESTAMP\n1,2,1769817600\n"}, {"view_item": 1}),
        ("gorse", {"feedback.jsonl": [GORSE]}, {"view_item": 1}),
        ("rees46", {"2019-Oct.csv": REES46 + "2019-10-01 00:00:00 UTC,view,1,2,,,1,3,4\n"}, {"view_item": 1}),
        ("logs", {"requests/a.jsonl": [REQUEST], "feedback/a.jsonl": [FEEDBACK]}, {"select_item": 1}),
        ("logs", {"01/requests.jsonl": [REQUEST], "01/feedback.jsonl": [FEEDBACK]}, {"select_item": 1}),
    ],
)
def test_known_shapes(
    export: Callable[..., Path], tmp_path: Path, source: str, files: dict[str, Any], kept: dict[str, int]
) -> None:
    for name, content in files.items():
        export(f"x/{name}", content)
    found = suggest(tmp_path / "x")
    assert (found.source, found.mapping, found.doubts) == (source, None, [])
    assert found.trial == Trial(1, kept, {}, 0)


def test_the_staging_form(tmp_path: Path) -> None:
    row = {"user_id": "u", "item_id": "i", "event_type": "view", "event_time": datetime(2026, 1, 1)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "interactions.parquet")
    for path in (tmp_path, tmp_path / "interactions.parquet"):
        assert suggest(path).source == "staging"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no file that can be read"):
        suggest(tmp_path)


def test_what_a_person_sees(export: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = export("a.csv", "user_id,item_id,event_type,ts\nu,i,view,2026-01-01\n,i,view,2026-01-01\n")
    run_suggest(path, "text")
    output = capsys.readouterr().out
    assert "columns:\n  user_id: user_id\n  item_id: item_id\n  event_type: event_type\n  ts: ts\n" in output
    assert "1    kept: view_item" in output
    assert "1    lost: missing user" in output
    assert f"--source files --mapping mapping.yaml {path}" in output.replace("\n", "")
    run_suggest(path, "json")
    line = orjson.loads(capsys.readouterr().out)
    assert (line["event"], line["source"], line["kept"], line["lost"]) == (
        "suggested",
        "files",
        {"view_item": 1},
        {"missing_user": 1},
    )
