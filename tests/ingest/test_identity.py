from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given as given_examples
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.contracts.events import IDENTITIES, IDENTITIES_TABLE, IDENTITY_PAIRS, LANDED
from endcap.engines import duckdb
from endcap.ingest import identity
from endcap.workspace import tables
from endcap.workspace.layout import Workspace
from tests.ingest.landed_rows import landed


def pairs(*known: tuple[str, str]) -> pa.Table:
    return pa.Table.from_pylist([{"guest_id": g, "user_id": u} for g, u in known], schema=IDENTITIES_TABLE.schema)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


@pytest.fixture
def connection(workspace: Workspace) -> Iterator[Backend]:
    with duckdb.session(workspace) as opened:
        yield opened


@pytest.mark.parametrize(
    ("seen", "given", "expected", "num_ambiguous"),
    [
        ([("g", "u")], {}, {"g": "u"}, 0),
        ([("g", "u"), ("h", "u")], {}, {"g": "u", "h": "u"}, 0),
        # A device that two people use stays what it is,
        ([("g", "u"), ("g", "v")], {}, {}, 1),
        # unless the shop says whose it is, or that both are one person.
        ([("g", "u"), ("g", "v")], {"g": "v"}, {"g": "v"}, 0),
        ([("g", "u"), ("g", "v")], {"u": "v"}, {"g": "v", "u": "v"}, 0),
        ([("a", "b"), ("b", "c"), ("c", "u")], {}, {"a": "u", "b": "u", "c": "u"}, 0),
        ([("g", "u")], {"g": "g"}, {}, 0),
        ([("g", "u")], {"g": "w"}, {"g": "w"}, 0),
        ([("a", "b"), ("b", "a")], {}, {"a": "b"}, 0),
        ([("a", "c"), ("b", "a"), ("c", "b")], {}, {"a": "c", "b": "c"}, 0),
        # b is a's, and so the shared device of a and b is a's too.
        ([("g", "a"), ("g", "b"), ("b", "h"), ("h", "a")], {}, {"g": "a", "b": "a", "h": "a"}, 0),
    ],
)
def test_who_a_guest_is(
    seen: list[tuple[str, str]], given: dict[str, str], expected: dict[str, str], num_ambiguous: int
) -> None:
    assert identity.merged(seen, given) == (expected, num_ambiguous)


names = st.sampled_from("abcdefgh")


@given_examples(
    orders=st.lists(st.tuples(names, names), max_size=14).flatmap(
        lambda seen: st.tuples(st.just(seen), st.permutations(seen * 2))
    ),
    given=st.dictionaries(names, names, max_size=4),
)
def test_the_order_of_rows_does_not_matter(
    orders: tuple[list[tuple[str, str]], list[tuple[str, str]]], given: dict[str, str]
) -> None:
    seen, shuffled = orders
    found, num_ambiguous = identity.merged(seen, given)
    assert identity.merged(shuffled, given) == (found, num_ambiguous)
    # Nobody is merged with somebody who is merged away: one join is enough.
    assert not set(found) & set(found.values())
    assert not any(guest in found for guest, user in given.items() if guest == user)
    # Nobody is merged without a chain of pairs that says so.
    linked = {frozenset(pair) for pair in (*seen, *given.items())}
    for guest, user in found.items():
        reached = {guest}
        for _ in range(8):
            reached |= {other for pair in linked if pair & reached for other in pair}
        assert user in reached


def test_a_long_chain_needs_no_recursion() -> None:
    size = 20_000
    chain = [(f"{place:06}", f"{place + 1:06}") for place in range(size)]
    found, _ = identity.merged(chain, {})
    assert set(found.values()) == {f"{size:06}"}
    assert len(found) == size


def write(workspace: Workspace, **contents: pa.Table) -> dict[str, int]:
    return {name: tables.write_table(workspace, name, content).version for name, content in contents.items()}


def test_dates_with_rows_of_a_guest_who_became_somebody(workspace: Workspace, connection: Backend) -> None:
    rows = landed((0, "g", None), (1, "other", None), (2, "g", None), (3, "u", "g"), (4, "u", "u"), (5, "u", None))
    versions = write(workspace, **{LANDED: rows})
    found = identity.resolve(connection, workspace, versions)
    assert found.identities.equals(pairs(("g", "u")))
    # The login's own rows, of day 3, name the user already.
    assert (found.dates, found.num_changed) == (("1970-01-01", "1970-01-03"), 1)
    versions |= write(workspace, **{IDENTITIES: found.identities})
    again = identity.resolve(connection, workspace, versions)
    assert again.identities.equals(found.identities)
    assert (again.dates, again.num_changed) == ((), 0)


def test_a_second_user_takes_the_merge_back(workspace: Workspace, connection: Backend) -> None:
    rows = landed((0, "g", None), (3, "u", "g"), (4, "v", "g"))
    versions = write(workspace, **{LANDED: rows, IDENTITIES: pairs(("g", "u"))})
    found = identity.resolve(connection, workspace, versions)
    assert found.identities.num_rows == 0
    assert (found.dates, found.num_changed, found.num_ambiguous) == (("1970-01-01",), 1, 1)


def test_given_pairs_beat_what_was_seen(workspace: Workspace, connection: Backend) -> None:
    rows = landed((0, "g", None), (3, "u", "g"), (4, "h", None))
    versions = write(workspace, **{LANDED: rows, IDENTITY_PAIRS: pairs(("g", "w"), ("h", "h"))})
    found = identity.resolve(connection, workspace, versions)
    assert found.identities.equals(pairs(("g", "w")))


def test_nothing_landed_nobody_merged(workspace: Workspace, connection: Backend) -> None:
    found = identity.resolve(connection, workspace, {})
    assert (found.identities.num_rows, found.dates) == (0, ())
    assert found.identities.schema.equals(IDENTITIES_TABLE.schema)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_pairs_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".csv":
        path.write_text("user_id,at,guest_id\n007,x,g\n007,y,g\nu,z,h\n")
    elif suffix == ".jsonl":
        path.write_text('{"guest_id": "g", "user_id": "007"}\n{"guest_id": "h", "user_id": "u"}\n')
    else:
        pq.write_table(pa.table({"guest_id": ["g", "h"], "user_id": ["007", "u"]}), path)
    assert identity.read_pairs(path).sort_by("guest_id").equals(pairs(("g", "007"), ("h", "u")))


def test_whole_numbers_become_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"guest_id": [12], "user_id": [7]}), path)
    assert identity.read_pairs(path).to_pylist() == [{"guest_id": "12", "user_id": "7"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "guest_id,user\ng,u\n", "lacks the column user_id; found: guest_id, user"),
        ("a.csv", "guest_id,user_id\ng,\n,u\nh,v\n", "2 rows lack an id"),
        ("a.csv", "guest_id,user_id\ng,u\ng,v\nh,v\n", "1 guests have more than one user"),
        ("a.csv", "", "can't be read"),
        ("a.csv", b"guest_id,user_id\n\xff\xfe,u\n", "can't be read"),
        ("a.parquet", "no parquet", "can't be read"),
        ("a.jsonl", '{"guest_id": [1], "user_id": "u"}\n', "neither text nor whole numbers"),
        ("a.xlsx", "x", "expected one of: .csv"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, name: str, text: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        identity.read_pairs(path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        identity.read_pairs(tmp_path / "a.csv")
