"""Landed rows and given pairs of ids in, which user each guest turned out to be and the dates this changes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import IDENTITIES, IDENTITIES_TABLE, IDENTITY_PAIRS, IDENTITY_PAIRS_TABLE, LANDED
from endcap.engines import duckdb
from endcap.ingest import keys
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

_FORMATS: Final = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Resolution:
    """Who is who. `dates` (ISO, sorted) hold landed rows of ids that count as another user than before."""

    identities: pa.Table
    """The whole content of table `identities`, in the order of its key."""
    dates: tuple[str, ...]
    num_changed: int
    num_ambiguous: int
    """Guests left alone because they were seen with several users."""


def resolve(connection: Backend, workspace: Workspace, versions: Mapping[str, int]) -> Resolution:
    """Find who each guest is, from tables `landed`, `identity_pairs` and `identities` (as it was) at `versions`.

    A table without a version counts as empty. The same tables give the same answer, whatever was resolved before.
    """
    if LANDED in versions:
        landed = duckdb.scan_table(connection, workspace, LANDED, version=versions[LANDED])
        seen = [*_pairs_of(connection.to_pyarrow(learned(landed))), *keys.pairs(connection, workspace, versions)]
    else:
        landed, seen = None, []
    given = dict(_pairs_of(_stored(workspace, IDENTITY_PAIRS, versions)))
    before = dict(_pairs_of(_stored(workspace, IDENTITIES, versions)))
    after, num_ambiguous = merged(seen, given)
    changed = sorted(guest for guest in before.keys() | after.keys() if before.get(guest) != after.get(guest))
    dates: tuple[str, ...] = ()
    if changed and landed is not None:
        ids = ibis.memtable(pa.table({c.USER_ID: pa.array(changed, pa.string())}))
        found = landed.semi_join(ids, c.USER_ID).select(c.EVENT_DATE).distinct()
        dates = tuple(sorted(str(date) for date in connection.to_pyarrow(found)[c.EVENT_DATE].to_pylist()))
    content = pa.table([list(after), list(after.values())], schema=IDENTITIES_TABLE.schema)
    return Resolution(
        identities=content.sort_by(c.GUEST_ID), dates=dates, num_changed=len(changed), num_ambiguous=num_ambiguous
    )


def learned(landed: ir.Table) -> ir.Table:
    """The distinct pairs (`guest_id`, `user_id`) of rows that name both, and differently."""
    both = landed.filter(landed[c.GUEST_ID].notnull() & (landed[c.GUEST_ID] != landed[c.USER_ID]))
    return both.select(c.GUEST_ID, c.USER_ID).distinct()


def merged(seen: Iterable[tuple[str, str]], given: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Each guest's user, chains followed to their end, and how many guests were left alone as ambiguous.

    What is `given` beats what was seen; a guest given as itself is merged with nobody. A guest seen with several users
    is a shared device unless these are one person by the other pairs: it is left alone, since an event in the wrong
    person's history does more harm than one in nobody's. In a circle of ids the last in the alphabet stands for all.
    The order of `seen` doesn't matter.
    """
    users: dict[str, set[str]] = {}
    for guest, user in seen:
        if guest not in given and guest != user:
            users.setdefault(guest, set()).add(user)
    for guest, user in given.items():
        if guest != user:
            users[guest] = {user}
    parents: dict[str, str] = {}
    pending = sorted(users)
    while pending:
        waiting = []
        for guest in pending:
            others = {_root(parents, user) for user in users[guest]} - {_root(parents, guest)}
            if len(others) == 1:
                parents[guest] = others.pop()
            elif others:
                waiting.append(guest)
        # Each merge may show that two users of a waiting guest are one person.
        if len(waiting) == len(pending):
            break
        pending = waiting
    return {guest: _root(parents, guest) for guest in sorted(parents)}, len(pending)


def _root(parents: dict[str, str], member: str) -> str:
    # Chains are halved on the way, so that a long one is walked once; no recursion, which long chains would exhaust.
    while (parent := parents.get(member)) is not None:
        if (beyond := parents.get(parent)) is None:
            return parent
        parents[member] = beyond
        member = beyond
    return member


def read_pairs(path: Path) -> pa.Table:
    """Pairs (`guest_id`, `user_id`) from a CSV, JSON-lines or Parquet file; numbers become text.

    Raises InputError when the file can't be read, lacks a column, has empty ids, or gives a guest two users.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file. Give a file with the columns {c.GUEST_ID} and {c.USER_ID}.")
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} ends in {path.suffix!r}; expected one of: {', '.join(_FORMATS)}.")
    texts = {name: pa.string() for name in IDENTITY_PAIRS_TABLE.schema.names}
    try:
        if path.suffix == ".csv":
            found = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=texts))
        elif path.suffix == ".jsonl":
            found = pa_json.read_json(path)
        else:
            found = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} can't be read: {str(error).rstrip('.')}. Export it again.") from error
    if missing := [name for name in texts if name not in found.column_names]:
        raise InputError(f"{path} lacks the column {missing[0]}; found: {', '.join(found.column_names)}.")
    try:
        pairs = pa.table([found[name].cast(pa.string()) for name in texts], schema=pa.schema(list(texts.items())))
    except pa.ArrowException as error:
        raise InputError(f"{path} holds ids that are neither text nor whole numbers: {error}.") from error
    return _checked_pairs(path, pairs)


def _checked_pairs(path: Path, pairs: pa.Table) -> pa.Table:
    filled = [pc.fill_null(pc.greater(pc.utf8_length(column), 0), False) for column in pairs.columns]
    num_empty = pairs.num_rows - (pc.sum(pc.and_(*filled)).as_py() or 0)
    distinct = pairs.group_by(pairs.column_names, use_threads=False).aggregate([])
    num_torn = distinct.num_rows - len(distinct[c.GUEST_ID].unique())
    problems = [f"{num_empty} rows lack an id"] if num_empty else []
    problems += [f"{num_torn} guests have more than one user, expected one"] if num_torn else []
    if problems:
        raise InputError(f"{path} can't be used: {'; '.join(problems)}. Mend these rows; nothing was changed.")
    return distinct.cast(IDENTITY_PAIRS_TABLE.schema)


def _stored(workspace: Workspace, name: str, versions: Mapping[str, int]) -> pa.Table:
    if name not in versions:
        return pa.table({c.GUEST_ID: pa.array([], pa.string()), c.USER_ID: pa.array([], pa.string())})
    return tables.read_table(workspace, name, version=versions[name])


def _pairs_of(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table[c.GUEST_ID].to_pylist(), table[c.USER_ID].to_pylist(), strict=True))
