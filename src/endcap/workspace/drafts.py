"""A workspace in, changes of several tables under way out: they build on each other and come into force together."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from endcap.workspace import tables
from endcap.workspace.layout import Workspace
from endcap.workspace.tables import TableWrite


class Draft:
    """Table versions on their way to the next dataset; begins with those in force.

    Hold `tables.exclusive` from before a draft is made until its versions are published. Raises InputError when a table
    in force has the shape of an earlier release.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.dataset = tables.current_dataset(workspace)
        self.versions: dict[str, int] = dict(self.dataset.versions) if self.dataset else {}
        self.derived = self.dataset.derived if self.dataset else ""
        """What the next dataset says of its derived tables; whoever derives them sets it."""
        tables.refuse_earlier_shapes(workspace, self.versions)

    def has(self, name: str) -> bool:
        """Whether the draft holds a version of the table."""
        return name in self.versions

    def replace(self, name: str, data: pa.Table, partitions: Sequence[str]) -> TableWrite:
        """Replace partitions, building on the draft's version; see `tables.replace_partitions`."""
        write = tables.replace_partitions(self.workspace, name, data, partitions, since=self.versions.get(name))
        self.versions[name] = write.version
        return write

    def write(self, name: str, data: pa.Table) -> TableWrite:
        """Replace a whole table; see `tables.write_table`."""
        write = tables.write_table(self.workspace, name, data)
        self.versions[name] = write.version
        return write

    def partition_rows(self, name: str) -> dict[str, int]:
        """Numbers of rows by partition; empty when the draft holds no such table."""
        if not self.has(name):
            return {}
        return tables.partition_rows(self.workspace, name, version=self.versions[name])

    def missing(self) -> set[str]:
        """Tables whose version in the draft is not on disk, because somebody removed it."""
        found = {name: tables.table_version(self.workspace, name) for name in self.versions}
        return {name for name, newest in found.items() if newest is None or newest < self.versions[name]}
