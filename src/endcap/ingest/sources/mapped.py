"""Flat rows and a mapping in, normalized events and a catalog out: what every source with one row per event shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.encoded import Side
from endcap.contracts.errors import InputError
from endcap.ingest import door, reader
from endcap.ingest.sources import cells, normalized, stated
from endcap.ingest.sources.event_words import folded
from endcap.ingest.sources.mapping import IGNORE, CatalogMapping, Cell, EventMapping, UserMapping
from endcap.ingest.sources.protocol import ATTRIBUTE_TYPES, Batch


@dataclass(frozen=True)
class MappedSource:
    """Files of rows whose columns a mapping names: each file is a batch."""

    name: str
    mapping: EventMapping
    is_whole_export: bool = False
    is_folding: bool = False
    """Whether words for event types are compared without regard to case, dashes and spaces."""
    has_optional_properties: bool = False
    """Whether a file may lack columns of the mapping's properties."""
    reasons: tuple[str, ...] = normalized.REASONS

    @property
    def configuration(self) -> dict[str, Any]:
        """What, beside the code, decides what becomes of a row."""
        return self.mapping.as_dict()

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        of_users = [self._users_path(path, about) for about in self.mapping.users]
        others = [place for place in of_users if place is not None and not self._holds_events(place)]
        if (catalog := self._catalog_path(path)) is not None:
            others.append(catalog)
        found = door.parts(path, self.name)
        if path.is_file() and path not in others:
            door.check_has_rows(path, encoding=self.mapping.encoding)
        return [
            Batch(f"{self.mapping.name}/{name}", (file,))
            for name, file in found.items()
            if not any(file == place or place in file.parents for place in others)
        ]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`."""
        wanted = _needed(self.mapping.columns)
        if not self.has_optional_properties:
            wanted += [[name] for name in self.mapping.properties]
        for path in batch.paths:
            found = door.column_names(path, encoding=self.mapping.encoding)
            door.check_columns(path, found, wanted, self.name)
        return reader.read_rows(connection, batch.paths, encoding=self.mapping.encoding)

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        return normalized.normalize(event_fields(rows, self.mapping, is_folding=self.is_folding))

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`."""
        found = self.judged_catalog(connection, path)
        return None if found is None else stated.kept(found)

    def judged_catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `JudgingSource.judged_catalog`."""
        files = self._catalog_files(path)
        if not files or self.mapping.catalog is None:
            return None
        return read_catalog(connection, files, self.mapping.catalog.columns, self.name, self.mapping.encoding)

    def attributes(self, connection: Backend, path: Path) -> dict[str, ir.Table]:
        """See `DescribingSource.attributes`."""
        mapping = self.mapping
        said = {
            f"users/{about.path}": self._attributes_in(connection, "buyer", c.USER_ID, place, about)
            for about in mapping.users
            if (place := self._users_path(path, about)) is not None
        }
        catalog = mapping.catalog
        if catalog is not None and catalog.properties and (place := self._catalog_path(path)) is not None:
            said[f"catalog/{catalog.path}"] = self._attributes_in(connection, "product", c.ITEM_ID, place, catalog)
        return said

    def _attributes_in(
        self, connection: Backend, side: Side, key: str, place: Path, about: CatalogMapping | UserMapping
    ) -> ir.Table:
        """Rows that can't be told apart by id and moment count once, the last of them; without an id or a moment, not at all."""
        files, encoding = list(door.parts(place, self.name).values()), self.mapping.encoding
        wanted = [*_needed(about.columns), *([name] for name in about.properties)]
        for file in files:
            door.check_columns(file, door.column_names(file, encoding=encoding), wanted, self.name)
        rows = reader.read_rows(connection, files, encoding=encoding)
        # What an event tells of its user is known after it: whoever asks at its very moment doesn't know it yet.
        of_events = side == "buyer" and self._holds_events(place)
        if of_events and "valid_from" not in about.columns:
            raise InputError(
                f"{place} holds events, and the mapping's users take {', '.join(about.properties)} from it without saying since "
                "when: the last event would tell of all before it. Add valid_from with the column of the events' moment."
            )
        delay_us = int(of_events)
        since = about.columns.get("valid_from", Cell())
        moment = _moment(rows, since)
        named = rows.select(
            **{
                c.SIDE: ibis.literal(side),
                c.ENTITY_ID: cells.id_text(_value(rows, about.columns[key])),
                c.VALID_FROM_US: ibis.coalesce(moment + delay_us, 0),
                c.PROPERTIES: cells.json_object(
                    {name: _told(rows[reader.own_name(name)]) for name in about.properties}
                ),
            },
            row_number=rows[c.ROW_NUMBER],
            is_bad=rows[reader.MALFORMED_LINE].notnull()
            | (cells.text(_value(rows, since)).notnull() & moment.isnull()),
        )
        known = named.filter(named[c.ENTITY_ID].notnull(), named[c.PROPERTIES].notnull(), ~named["is_bad"])
        same = ibis.window(group_by=[c.ENTITY_ID, c.VALID_FROM_US], order_by=known[c.ROW_NUMBER].desc())
        last = known.mutate(place=ibis.row_number().over(same)).filter(lambda t: t.place == 0)
        return last.select(**{name: last[name].cast(dtype) for name, dtype in ATTRIBUTE_TYPES.items()})

    def _users_path(self, path: Path, about: UserMapping) -> Path | None:
        """A file or folder about users, where the export has it."""
        place = (path if path.is_dir() else path.parent) / about.path
        return place if place.exists() else None

    def _holds_events(self, place: Path) -> bool:
        """Whether what tells of users has all columns of events too: then the events themselves tell of them."""
        files = list(door.parts(place, self.name).values())
        found = door.column_names(files[0], encoding=self.mapping.encoding) if files else []
        return all(any(name in found for name in names) for names in _needed(self.mapping.columns))

    def _catalog_files(self, path: Path) -> list[Path]:
        place = self._catalog_path(path)
        return [] if place is None else list(door.parts(place, self.name).values())

    def _catalog_path(self, path: Path) -> Path | None:
        """The catalog's file or folder, where the export has one."""
        if self.mapping.catalog is None:
            return None
        place = (path if path.is_dir() else path.parent) / self.mapping.catalog.path
        return place if place.exists() else None


def read_catalog(
    connection: Backend, files: Sequence[Path], columns: Mapping[str, Cell], source: str, encoding: str = "utf-8"
) -> ir.Table:
    """Rows of files about products, judged (`stated.judged`).

    `valid_from_us` is 0 where the file or the cell has none. One that can't be read is no reason to take the row for older
    than it is: it is left out.
    """
    for file in files:
        door.check_columns(file, door.column_names(file, encoding=encoding), _needed(columns), source)
    rows = reader.read_rows(connection, files, encoding=encoding)
    price_cell, stock_cell = (columns.get(name, Cell()) for name in ("price", "in_stock"))
    price, in_stock = _amount(rows, price_cell), _value(rows, stock_cell)
    units = cells.money_units((price > 0).ifelse(price, ibis.null("float64")))
    flag = cells.flag(in_stock)
    since = _value(rows, columns.get("valid_from", Cell()))
    moment = _moment(rows, columns.get("valid_from", Cell()))
    values: dict[str, ir.Value] = {
        c.ITEM_ID: cells.id_text(_value(rows, columns["item_id"])),
        c.VALID_FROM_US: ibis.coalesce(moment, 0),
        c.TITLE: cells.clean_title(_value(rows, columns.get("title", Cell()))),
        c.CATEGORY: _category(rows, columns.get("category", Cell())),
        c.BRAND: cells.clean_title(_value(rows, columns.get("brand", Cell()))),
        c.GROUP_ID: cells.id_text(_value(rows, columns.get("group_id", Cell()))),
        c.PRICE: cells.money(units),
        c.CURRENCY: cells.text(_value(rows, columns.get("currency", Cell()))).upper(),
        c.IN_STOCK: ~flag if stock_cell.negate else flag,
    }
    return stated.judged(
        rows,
        values,
        bad_time=cells.text(since).notnull() & moment.isnull(),
        flags={
            normalized.BAD_PRICE: cells.text(_value(rows, price_cell)).notnull() & units.isnull(),
            stated.BAD_STOCK: cells.text(in_stock).notnull() & flag.isnull(),
        },
    )


def event_fields(rows: ir.Table, mapping: EventMapping, *, is_folding: bool = False) -> normalized.Fields:
    """What the mapping finds in each row."""
    columns = mapping.columns
    word = cells.text(_value(rows, columns["event_type"]))
    names = {name: normalized.NOT_USED if kind == IGNORE else kind for name, kind in mapping.event_types.items()}
    event_type = word if not names else normalized.named_event_type(folded(word) if is_folding else word, names)
    time, price = columns["ts"], columns.get("price", Cell())
    value, quantity = columns.get("value", Cell()), columns.get("quantity", Cell())
    kept = {name: cells.text(rows[reader.own_name(name)]) for name in mapping.properties if _has(rows, name)}
    if "session_id" in columns:
        kept["session_id"] = cells.id_text(_value(rows, columns["session_id"]))
    malformed = rows[reader.MALFORMED_LINE]
    return normalized.Fields(
        rows=rows,
        user=cells.id_text(_value(rows, columns.get("user_id", Cell()))),
        guest=cells.id_text(_value(rows, columns.get("guest_id", Cell()))),
        item=cells.id_text(_value(rows, columns["item_id"])),
        type_given=word,
        event_type=event_type,
        time_given=_value(rows, time),
        ts_us=_moment(rows, time),
        is_malformed=malformed.notnull(),
        event_id=cells.id_text(_value(rows, columns.get("event_id", Cell()))),
        price_given=cells.text(_value(rows, price)),
        price=_amount(rows, price),
        value_given=cells.text(_value(rows, value)),
        value=_amount(rows, value),
        quantity_given=cells.text(_value(rows, quantity)),
        quantity=_amount(rows, quantity),
        currency=cells.text(_value(rows, columns.get("currency", Cell()))),
        basket=cells.id_text(_value(rows, columns.get("basket_id", Cell()))),
        properties=kept,
        title=cells.clean_title(_value(rows, columns.get("title", Cell()))),
        category=_category(rows, columns.get("category", Cell())),
        brand=cells.clean_title(_value(rows, columns.get("brand", Cell()))),
        country=cells.text(_value(rows, columns.get("country", Cell()))),
    )


def _needed(columns: Mapping[str, Cell]) -> list[Sequence[str]]:
    """Alternatives of which a file must have one each."""
    needed: list[Sequence[str]] = []
    for cell in columns.values():
        if not cell.optional:
            needed += [cell.columns] if cell.columns else [[level] for level in cell.levels]
    return needed


def _has(rows: ir.Table, name: str) -> bool:
    return reader.own_name(name) in rows.columns


def _value(rows: ir.Table, cell: Cell) -> ir.Value:
    """What stands in the cell's columns, or its constant; a null text when the rows have none of them."""
    if cell.constant is not None:
        return ibis.literal(cell.constant)
    found = [rows[reader.own_name(name)] for name in cell.columns if _has(rows, name)]
    if not found:
        return ibis.null("string")
    if len(found) == 1 or len({value.type() for value in found}) == 1:
        return found[0] if len(found) == 1 else ibis.coalesce(*found)
    return cells.first_of(found)


def _told(value: ir.Value) -> ir.StringValue:
    """A property as text; a list as the text of a JSON array."""
    return cells.json_text(value) if value.type().is_array() else cells.text(value)


def _amount(rows: ir.Table, cell: Cell) -> ir.FloatingValue:
    amount = cells.number(_value(rows, cell), decimal=cell.decimal)
    return amount if cell.divide_by == 1 else amount / cell.divide_by


def _moment(rows: ir.Table, cell: Cell) -> ir.IntegerValue:
    return cells.moment_us(_value(rows, cell), cell.format, cell.timezone)


def _category(rows: ir.Table, cell: Cell) -> ir.StringValue:
    levels = [rows[reader.own_name(name)] for name in cell.levels if _has(rows, name)]
    if not levels:
        return cells.category_path(_value(rows, cell), cell.separator)
    return cells.joined_levels(levels)
