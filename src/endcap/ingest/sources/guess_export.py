"""A file or folder nobody has described in, which file holds events and which products, and their mapping, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from endcap.contracts.errors import InputError
from endcap.ingest import door
from endcap.ingest.sources.guess import (
    LIKELY,
    NAMES,
    Candidate,
    Finding,
    Guess,
    candidates,
    columns_of,
    folded_name,
    guess_mapping,
    name_score,
)
from endcap.ingest.sources.mapping import CatalogMapping, EventMapping

_MAX_FILES: Final = 50
"""Files whose columns are looked at."""
_ITEM: Final = (*NAMES["item_id"], "id")
_FACTS: Final[Mapping[str, Sequence[str]]] = {
    "title": NAMES["title"],
    "category": NAMES["category"],
    "brand": NAMES["brand"],
    "price": NAMES["price"],
}
_FURTHER: Final[Mapping[str, Sequence[str]]] = {
    **_FACTS,
    "currency": NAMES["currency"],
    "group_id": ("group_id", "item_group_id", "product_group_id", "parent_id", "parent_asin"),
    "in_stock": ("in_stock", "available", "availability", "is_available", "stock_status"),
}


def guessed_mapping(path: Path) -> EventMapping:
    """The mapping of the export at `path`. Raises InputError with the proposal when it takes somebody to decide."""
    file, guess = guess_export(path, look_beside=False)
    if guess.doubts:
        raise InputError(
            f"What the columns of {file} hold isn't clear enough to go on without --mapping FILE: "
            f"{'; '.join(guess.doubts)}. Save and mend this proposal:\n{guess.mapping.as_yaml()}"
        )
    return guess.mapping


def guess_export(path: Path, *, look_beside: bool = True) -> tuple[Path, Guess]:
    """The first file at `path` that may hold events, and its mapping, with a catalog where another file holds products.

    `look_beside`: whether the catalog of a single file may be one of its neighbours. Raises InputError when nothing can
    be read.
    """
    found = door.parts(path, "files")
    names = {file: _folded(file) for file in islice(found.values(), _MAX_FILES)}
    file = next((file for file, folded in names.items() if _is_events(folded)), next(iter(found.values())))
    guess = guess_mapping(file)
    if path.is_file() and look_beside:
        beside = (other for other in sorted(path.parent.iterdir()) if other.is_file() and door.file_kind(other))
        names = {other: _folded(other) for other in islice(beside, _MAX_FILES)}
    folder = path if path.is_dir() else path.parent
    products = [other for other, folded in names.items() if other != file and _is_products(folded)]
    return file, _with_catalog(guess, file, products, folder)


def _folded(file: Path) -> list[str]:
    try:
        return [folded_name(name) for name in door.column_names(file)]
    except InputError:  # a neighbour that can't be read is none
        return []


def _is_events(folded: Sequence[str]) -> bool:
    return all(any(name_score(NAMES[field], name) for name in folded) for field in ("user_id", "item_id"))


def _is_products(folded: Sequence[str]) -> bool:
    """Whether a file names products and something about them, but no users."""
    names = {field: any(name_score(known, name) for name in folded) for field, known in _FACTS.items()}
    has_user = any(name_score(NAMES["user_id"], name) for name in folded)
    return any(name_score(_ITEM, name) for name in folded) and any(names.values()) and not has_user


def _with_catalog(guess: Guess, file: Path, products: Sequence[Path], folder: Path) -> Guess:
    """The guess with the file of products that names most of the events' products, if any does."""
    cell = guess.mapping.columns.get("item_id")
    wanted = next(
        (column for column in columns_of(file, guess.mapping.encoding) if cell and column.name in cell.columns), None
    )
    if wanted is None:
        return guess
    sold = {str(value).strip() for value in wanted.values}
    best: tuple[int, Path, dict[str, Candidate]] | None = None
    for other in products:
        chosen = _chosen(other, wanted.folded)
        if chosen is None:
            continue
        shared = len(sold & {str(value).strip() for value in chosen["item_id"].column.values})
        if shared and (best is None or shared > best[0]):
            best = (shared, other, chosen)
    if best is None:
        return guess
    shared, other, chosen = best
    place = other.relative_to(folder).as_posix()
    catalog = CatalogMapping(path=place, columns={name: candidate.cell for name, candidate in chosen.items()})
    why = f"it names {shared} of the {len(sold)} products looked at"
    return dataclasses.replace(
        guess,
        mapping=dataclasses.replace(guess.mapping, catalog=catalog),
        findings=[*guess.findings, Finding("catalog", place, LIKELY, why)],
    )


def _chosen(file: Path, item: str) -> dict[str, Candidate] | None:
    """The columns of a file of products, no column twice; None without ids or anything beside them."""
    columns = columns_of(file)
    chosen: dict[str, Candidate] = {}
    for name, known in {"item_id": (item, *_ITEM), **_FURTHER}.items():
        taken = [candidate.column.name for candidate in chosen.values()]
        free = [found for found in candidates(known, columns, name) if found.column.name not in taken]
        if free:
            chosen[name] = free[0]
    return chosen if "item_id" in chosen and any(name in chosen for name in _FACTS) else None
