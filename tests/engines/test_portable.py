"""The same types and texts on every engine: casts that stay, digests as everybody else makes them."""

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.engines import duckdb, portable
from endcap.workspace.layout import Workspace


def test_a_cast_that_seems_needless_is_kept(tmp_path):
    numbers = ibis.memtable({"n": [1, 2]}, schema={"n": "int64"})
    total = numbers["n"].sum()
    with duckdb.session(Workspace.init(tmp_path / "workspace")) as connection:
        for name, value in (("dropped", total.cast("int64")), ("kept", portable.always(total, "int64"))):
            connection.to_parquet(numbers.aggregate(n=value), tmp_path / name)
    types = {name: pq.read_schema(tmp_path / name).field("n").type for name in ("dropped", "kept")}
    assert types == {"dropped": pa.float64(), "kept": pa.int64()}


def test_tables_that_promise_differently_on_nulls_meet():
    strict = ibis.memtable({"n": [1]}, schema={"n": "!int64"})
    loose = ibis.memtable({"n": [2]}, schema={"n": "int64"})
    both = portable.nullable(strict).union(portable.nullable(loose))
    assert sorted(both.to_pyarrow()["n"].to_pylist()) == [1, 2]


def test_digests_are_those_of_everybody():
    texts = ibis.memtable({"t": ["abc", "", "é", None]}, schema={"t": "string"})
    found = texts.mutate(d=portable.md5_hex(texts["t"])).to_pyarrow().to_pydict()
    assert dict(zip(found["t"], found["d"], strict=True)) == {
        "abc": "900150983cd24fb0d6963f7d28e17f72", "": "d41d8cd98f00b204e9800998ecf8427e",
        "é": "66ddcd97cfdeabb2f6fb8a999b4bc76f", None: None,
    }  # fmt: skip
