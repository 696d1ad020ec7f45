"""Further rows of a table in, a version that holds them beside the others out: for content that memory can't hold whole."""

from __future__ import annotations

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from endcap.contracts.errors import TransientError
from endcap.contracts.events import TABLES
from endcap.workspace import tables
from endcap.workspace.layout import Workspace


def append_rows(workspace: Workspace, name: str, data: pa.Table, *, since: int) -> int:
    """Add rows to the table as it was at version `since`, in one commit, and give the version.

    What was committed after `since` and never came into force is undone first. That no row of the table has the key of
    one of `data` is the caller's to see to. Raises InputError when `data` breaks the table's contract, TransientError when
    another writer won or the system failed.
    """
    checked = tables.checked(TABLES[name], data)
    path = tables.table_path(workspace, name)
    table = DeltaTable(str(path))
    if table.version() != since:
        tables.restore(path, table, since)
    try:
        write_deltalake(str(path), checked, mode="append")
    except CommitFailedError as error:
        raise TransientError(
            f"Another writer changed the table {path} at the same time: {error}. Try again."
        ) from error
    except OSError as error:
        raise TransientError(
            f"The table {path} could not be written: {error}. Its last version is unharmed."
        ) from error
    return DeltaTable(str(path)).version()
