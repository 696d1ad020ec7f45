"""Exports that say by their columns which of their files hold events and which products in, either out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from endcap.contracts.errors import InputError
from endcap.ingest import door
from endcap.ingest.sources.mapped import MappedSource
from endcap.ingest.sources.mapping import Cell
from endcap.ingest.sources.protocol import Batch

_SIBLING: Final = "item"


@dataclass(frozen=True)
class RoleSource(MappedSource):
    """A source whose files are events when they name user and product, products when they name products alone."""

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        events, items = self._roles(path)
        if not events and not items:
            expected = ", ".join(" or ".join(names) for names in self._event_columns())
            raise InputError(f"{path} holds no file of source {self.name}; expected the columns {expected}.")
        if path.is_file():
            door.check_has_rows(path)
        return [Batch(f"{self.mapping.name}/{name}", (file,)) for name, file in events.items()]

    def _catalog_files(self, path: Path) -> list[Path]:
        """Files of products. Beside a single file of events, files whose names hold `item` are looked at."""
        items = list(self._roles(path)[1].values())
        if path.is_file() and not items:
            siblings = sorted(file for file in path.parent.iterdir() if _SIBLING in file.name.lower() and file != path)
            readable = [file for file in siblings if file.is_file() and door.file_kind(file) is not None]
            items = [file for file in readable if self._is_items(door.column_names(file))]
        return items

    def _roles(self, path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        events, items = {}, {}
        for name, file in door.parts(path, self.name).items():
            found = door.column_names(file)
            if all(any(name in found for name in names) for names in self._event_columns()):
                events[name] = file
            elif self._is_items(found):
                items[name] = file
        return events, items

    def _event_columns(self) -> list[Sequence[str]]:
        return [self.mapping.columns[field].columns for field in ("user_id", "item_id")]

    def _is_items(self, found: Sequence[str]) -> bool:
        """Whether a file names products and something about them, but no users."""
        if self.mapping.catalog is None:
            return False
        cells = self.mapping.catalog.columns
        others = [name for field, cell in cells.items() if field != "item_id" for name in _names(cell)]
        users = self.mapping.columns["user_id"].columns
        return (
            any(name in found for name in cells["item_id"].columns)
            and any(name in found for name in others)
            and not any(name in found for name in users)
        )


def _names(cell: Cell) -> Sequence[str]:
    return (*cell.columns, *cell.levels)
