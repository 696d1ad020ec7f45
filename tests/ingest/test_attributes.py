"""What a shop's files say of users and products beyond the tables' columns: since when it holds, and what replaces it."""

from __future__ import annotations

import ibis
import pyarrow as pa
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.contracts.events import ATTRIBUTES
from endcap.ingest import attributes
from endcap.ingest.pipeline import ingest
from endcap.ingest.sources import make_source
from endcap.ingest.sources.protocol import ATTRIBUTE_TYPES
from endcap.workspace import tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

MAPPING = """
name: shop
columns: {user_id: who, item_id: sku, event_type: {constant: purchase}, ts: {column: at, format: s}}
catalog:
  path: goods.csv
  columns: {item_id: sku, title: name}
  properties: [size, colour]
users:
  path: people.jsonl
  columns: {user_id: who, valid_from: {column: since, format: s}}
  properties: [age, likes]
"""


@pytest.fixture
def said(connection: Backend, workspace: Workspace):
    """A function that brings rows (side, id, moment, properties) as of a moment, and gives all that is held since."""
    draft = Draft(workspace)
    schema = ibis.schema(ATTRIBUTE_TYPES).to_pyarrow()

    def bring(as_of_us, *rows):
        table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)
        changed = attributes.write(connection, draft, "shop", ibis.memtable(table), as_of_us)
        held = tables.read_table(workspace, ATTRIBUTES, version=draft.versions[ATTRIBUTES]).to_pylist()
        return changed, [tuple(row[name] for name in ATTRIBUTE_TYPES) for row in held]

    return bring


def test_a_later_snapshot_changes_nothing_before_its_moment(said):
    cup, ann = ("product", "cup", 0, '{"size":"S"}'), ("buyer", "ann", 0, '{"age":"30"}')
    assert said(100, cup, ann) == (True, [ann, cup])
    assert said(200, cup, ann) == (False, [ann, cup])
    large, jug = ("product", "cup", 0, '{"size":"L"}'), ("product", "jug", 0, '{"size":"M"}')
    assert said(300, large, jug) == (True, [ann, cup, ("product", "cup", 300, '{"size":"L"}'), jug])
    assert said(400, cup)[1] == [ann, cup, ("product", "cup", 300, '{"size":"L"}'), (*cup[:2], 400, cup[3]), jug]


def test_a_statement_with_a_moment_holds_from_it_and_is_replaced_by_the_same_moment(said):
    said(100, ("buyer", "ann", 50, '{"age":"30"}'), ("buyer", "ann", 70, '{"age":"31"}'))
    changed, held = said(200, ("buyer", "ann", 70, '{"age":"32"}'))
    assert changed
    assert held == [("buyer", "ann", 50, '{"age":"30"}'), ("buyer", "ann", 70, '{"age":"32"}')]


def test_files_about_users_and_products(workspace: Workspace, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "sold.csv").write_text("who,sku,at\nann,cup,1767225600\nbob,jug,1767225700\n")
    (folder / "goods.csv").write_text("sku,name,size,colour\ncup,CUP,S,red\njug,JUG,,\ncup,CUP,M,red\n,NOBODY,S,\n")
    (folder / "people.jsonl").write_text(
        '{"who": "ann", "since": 1767225000, "age": 30, "likes": ["tea", "milk"]}\n'
        '{"who": "bob", "since": "soon", "age": 40}\n'
        '{"who": "cyd"}\n'
    )
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    source = make_source("files", {"mapping": str(tmp_path / "mapping.yaml")})
    result = ingest(workspace, source, folder)
    assert result.account.events == {"purchase": 2}
    held = tables.read_table(workspace, ATTRIBUTES).to_pylist()
    assert [(row["side"], row["entity_id"], row["valid_from_us"], row["properties"]) for row in held] == [
        ("product", "cup", 0, '{"size":"M","colour":"red"}'),
        ("buyer", "ann", 1767225000_000_000, '{"age":"30","likes":"[\\"tea\\",\\"milk\\"]"}'),
    ]
    assert not ingest(workspace, source, folder).changed

    (folder / "people.jsonl").write_text('{"who": "ann", "since": 1767225000, "age": 30}\n')
    with pytest.raises(InputError, match=r"people\.jsonl.*likes"):
        ingest(workspace, source, folder)


def test_several_files_about_users_one_of_them_the_events_themselves(workspace: Workspace, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "sold.csv").write_text(
        "who,sku,at,store\nann,cup,1767225600,A\nann,jug,1767225700,B\nbob,jug,1767225700,\n"
    )
    (folder / "people.csv").write_text("who,age\nann,30\n")
    mapping = """
columns: {user_id: who, item_id: sku, event_type: {constant: purchase}, ts: {column: at, format: s}}
users:
  - {path: people.csv, columns: {user_id: who}, properties: [age]}
  - {path: sold.csv, columns: {user_id: who, valid_from: {column: at, format: s}}, properties: [store]}
"""
    (tmp_path / "mapping.yaml").write_text(mapping)
    source = make_source("files", {"mapping": str(tmp_path / "mapping.yaml")})
    (tmp_path / "again.yaml").write_text(source.mapping.as_yaml())
    assert make_source("files", {"mapping": str(tmp_path / "again.yaml")}) == source
    assert ingest(workspace, source, folder).account.events == {"purchase": 3}

    def held():
        rows = tables.read_table(workspace, ATTRIBUTES).to_pylist()
        return sorted((row["entity_id"], row["valid_from_us"], row["properties"]) for row in rows)

    # Just after the purchases: none is asked for by what itself tells.
    stores = [("ann", 1767225600_000_001, '{"store":"A"}'), ("ann", 1767225700_000_001, '{"store":"B"}')]
    assert held() == [("ann", 0, '{"age":"30"}'), *stores]
    assert not ingest(workspace, source, folder).changed  # a store that holds since is no change of the age
    (folder / "people.csv").write_text("who,age\nann,31\n")
    assert ingest(workspace, source, folder).changed
    assert [row for row in held() if "store" in row[2]] == stores
    assert [row[2] for row in held() if "age" in row[2]] == ['{"age":"30"}', '{"age":"31"}']
    (tmp_path / "mapping.yaml").write_text(mapping.replace(", valid_from: {column: at, format: s}", ""))
    with pytest.raises(InputError, match=r"sold\.csv holds events.*store.*Add valid_from"):
        ingest(workspace, make_source("files", {"mapping": str(tmp_path / "mapping.yaml")}), folder)


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ("[{path: a.csv, columns: {user_id: who}, properties: [age]}, ]", None),
        ("[{path: a.csv, columns: {user_id: who}, properties: [age]}, {path: b.csv, columns: {user_id: who}, properties: [age]}]",
         "users: age is a property of several files"),
        ("[{path: a.csv, columns: {user_id: who}, properties: [age]}, {path: a.csv, columns: {user_id: who}, properties: [job]}]",
         "users: a.csv stands twice"),
        ("[{path: a.csv, columns: {}, properties: [age]}, null]", r"users\[0\].columns.user_id is missing; users\[1\] is empty"),
    ],
)  # fmt: skip
def test_lists_of_files_about_users(tmp_path, users, problem):
    head = MAPPING.partition("users:")[0]
    (tmp_path / "mapping.yaml").write_text(f"{head}users: {users}\n")
    if problem is None:
        assert len(make_source("files", {"mapping": str(tmp_path / "mapping.yaml")}).mapping.users) == 1
        return
    with pytest.raises(InputError, match=problem):
        make_source("files", {"mapping": str(tmp_path / "mapping.yaml")})


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  properties: [age, likes]", "  properties: age", "users.properties is 'age'; expected a list"),
        ("  path: people.jsonl\n", "", "users.path is None"),
        ("{user_id: who, valid", "{user: who, valid", r"users.columns.user is no key \(did you mean user_id\?\)"),
        ("users:", "user:", r"user is no key \(did you mean users\?\)"),
    ],
)
def test_mappings_of_users_that_cannot_be_used(tmp_path, old, new, problem):
    (tmp_path / "mapping.yaml").write_text(MAPPING.replace(old, new))
    with pytest.raises(InputError, match=problem):
        make_source("files", {"mapping": str(tmp_path / "mapping.yaml")})


def test_a_mapping_is_written_as_it_was_read(tmp_path):
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    source = make_source("files", {"mapping": str(tmp_path / "mapping.yaml")})
    (tmp_path / "again.yaml").write_text(source.mapping.as_yaml())
    assert make_source("files", {"mapping": str(tmp_path / "again.yaml")}) == source
