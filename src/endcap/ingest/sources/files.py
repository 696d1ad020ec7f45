"""A shop's own Parquet, CSV or JSON-lines files and a mapping of their columns in, events out: each file is a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.ingest.sources import normalized
from endcap.ingest.sources.mapped import MappedSource
from endcap.ingest.sources.mapping import EventMapping
from endcap.ingest.sources.protocol import Batch

NAME: Final = "files"


def files(mapping: EventMapping) -> MappedSource:
    """The source for files whose columns `mapping` names."""
    return MappedSource(NAME, mapping)


@dataclass(frozen=True)
class UnmappedFiles:
    """What `files` is before its mapping is known: it refuses to read."""

    name: str = NAME
    is_whole_export: bool = False
    reasons: tuple[str, ...] = normalized.REASONS

    def batches(self, path: Path) -> list[Batch]:
        """Refuse."""
        raise _unmapped(path)

    def read(self, connection: Backend, batch: Batch) -> ir.Table:  # noqa: ARG002 (the protocol's signature)
        """Refuse."""
        raise _unmapped(batch.paths[0])

    def normalize(self, rows: ir.Table) -> ir.Table:  # noqa: ARG002 (the protocol's signature)
        """Refuse."""
        raise _unmapped(None)

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:  # noqa: ARG002 (the protocol's signature)
        """Refuse."""
        raise _unmapped(path)


def _unmapped(path: Path | None) -> InputError:
    return InputError(
        f"Source {NAME} needs to know what the columns of {path or 'the files'} hold: give --mapping FILE; "
        "endcap ingest --suggest FILE proposes one."
    )
