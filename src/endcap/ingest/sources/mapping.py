"""A mapping file in, which column holds what in a shop's own files out; unknown keys are refused by name.

The file is YAML: `columns` says where each field of an event stands, `event_types` what the shop's words mean, `catalog`
the same for a file about products.
"""

from __future__ import annotations

import codecs
import difflib
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.ingest.sources import cells

EVENT_FIELDS: Final = (
    "event_id",
    "user_id",
    "guest_id",
    "item_id",
    "event_type",
    "ts",
    "value",
    "price",
    "quantity",
    "currency",
    "basket_id",
    "session_id",
    "title",
    "category",
    "brand",
    "country",
)
CATALOG_FIELDS: Final = (
    "item_id",
    "valid_from",
    "title",
    "category",
    "brand",
    "group_id",
    "price",
    "currency",
    "in_stock",
)
USER_FIELDS: Final = ("user_id", "valid_from")
IGNORE: Final = "ignore"
"""In `event_types`: rows of that word are left out on purpose."""

_MOMENTS: Final = ("ts", "valid_from")
_AMOUNTS: Final = ("price", "value", "quantity")
_DEFAULT_NAME: Final = "files"


@dataclass(frozen=True)
class Cell:
    """Where one field stands in a row and how it is written there."""

    columns: tuple[str, ...] = ()
    """Names of columns that hold it; where several do, the first that isn't empty counts."""
    constant: str | None = None
    """What it is in every row, instead of a column."""
    optional: bool = False
    """Whether a file may lack it."""
    format: str = cells.ISO
    """Of a moment: `iso`, `s`, `ms`, `us`, `ns` since 1970, or a pattern of strptime. A timestamp column needs none."""
    timezone: str = "UTC"
    """Of a moment without an offset."""
    decimal: str = "."
    """Of an amount in text: the mark before the fraction."""
    divide_by: int = 1
    """Of an amount: 100 for cents."""
    separator: str = ""
    """Of a category: what parts its path; empty: the text is one name, or parted by ` > ` already."""
    levels: tuple[str, ...] = ()
    """Of a category: columns that each hold a level, the widest first, instead of `columns`. Of a list the first counts."""
    negate: bool = False
    """Of a truth: the column says the opposite, such as sold out."""

    def as_yaml(self) -> Any:
        """The shortest form that a mapping file may have for it."""
        keys: dict[str, Any] = {}
        if self.constant is not None:
            keys["constant"] = self.constant
        if self.columns:
            keys["column"] = self.columns[0] if len(self.columns) == 1 else list(self.columns)
        if self.levels:
            keys["levels"] = list(self.levels)
        default = Cell()
        for key in ("optional", "format", "timezone", "decimal", "divide_by", "separator", "negate"):
            if getattr(self, key) != getattr(default, key):
                keys[key] = getattr(self, key)
        return keys["column"] if list(keys) == ["column"] and isinstance(keys["column"], str) else keys


def column(*names: str, **more: Any) -> Cell:
    """A cell that stands in the first of the named columns that a file has."""
    return Cell(columns=names, **more)


@dataclass(frozen=True)
class CatalogMapping:
    """Where a file about products lies and what its columns hold."""

    path: str
    """A file or folder, relative to the export's folder."""
    columns: Mapping[str, Cell]
    properties: tuple[str, ...] = ()
    """Further columns to keep of a product, for features."""


@dataclass(frozen=True)
class UserMapping:
    """Where a file about users lies and what its columns hold."""

    path: str
    """A file or folder, relative to the export's folder."""
    columns: Mapping[str, Cell]
    properties: tuple[str, ...] = ()
    """Columns to keep of a user, for features."""


@dataclass(frozen=True)
class EventMapping:
    """What the columns of a shop's files hold."""

    columns: Mapping[str, Cell]
    event_types: Mapping[str, str] = field(default_factory=dict)
    """The shop's words, each with an event type or `ignore`. Empty: the words are event types already."""
    properties: tuple[str, ...] = ()
    """Further columns to keep with the event, as JSON."""
    catalog: CatalogMapping | None = None
    users: tuple[UserMapping, ...] = ()
    name: str = _DEFAULT_NAME
    """What the names of the batches begin with: two exports with files of equal names need different ones."""
    encoding: str = "utf-8"

    def as_dict(self) -> dict[str, Any]:
        """What a mapping file of it holds."""
        content: dict[str, Any] = {}
        if self.name != _DEFAULT_NAME:
            content["name"] = self.name
        if self.encoding != "utf-8":
            content["encoding"] = self.encoding
        content["columns"] = {name: cell.as_yaml() for name, cell in self.columns.items()}
        if self.event_types:
            content["event_types"] = dict(self.event_types)
        if self.properties:
            content["properties"] = list(self.properties)
        if self.catalog is not None:
            content["catalog"] = _as_dict(self.catalog)
        if self.users:
            told = [_as_dict(about) for about in self.users]
            content["users"] = told if len(told) > 1 else told[0]
        return content

    def as_yaml(self) -> str:
        """The text of a mapping file."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)


def _as_dict(about: CatalogMapping | UserMapping) -> dict[str, Any]:
    content: dict[str, Any] = {"path": about.path}
    content["columns"] = {name: cell.as_yaml() for name, cell in about.columns.items()}
    if about.properties:
        content["properties"] = list(about.properties)
    return content


def load_mapping(path: Path) -> EventMapping:
    """Read a mapping file. Raises InputError that lists every problem with its key and what was expected."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Give the path of a mapping file; --suggest proposes one.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first_line = str(error).replace("\n", " ")
        raise InputError(f"{path} can't be read as YAML: {first_line}. Mend the file.") from error
    problems: list[str] = []
    mapping = _event_mapping(content, problems)
    if problems:
        raise InputError(f"{path} is no mapping that can be used: {'; '.join(problems)}. See docs/sources.md.")
    return mapping


def _event_mapping(content: Any, problems: list[str]) -> EventMapping:
    if not isinstance(content, dict):
        problems.append("it holds no keys; expected columns: {user_id: …, item_id: …, event_type: …, ts: …}")
        return EventMapping({})
    _known(content, ("name", "encoding", "columns", "event_types", "properties", "catalog", "users"), "", problems)
    columns = _cells(content.get("columns"), EVENT_FIELDS, "columns", problems)
    problems += [f"columns.{wanted} is missing" for wanted in ("item_id", "event_type", "ts") if wanted not in columns]
    if "user_id" not in columns and "guest_id" not in columns:
        problems.append("columns.user_id (or guest_id) is missing")
    name = content.get("name", _DEFAULT_NAME)
    if not isinstance(name, str) or not name or "/" in name:
        problems.append(f"name is {name!r}; expected a text without /")
    return EventMapping(
        columns=columns,
        event_types=_event_types(content.get("event_types"), columns.get("event_type"), problems),
        properties=_properties(content, "", problems),
        catalog=_catalog(content.get("catalog"), problems),
        users=_users(content.get("users"), problems),
        name=str(name),
        encoding=_encoding(content.get("encoding", "utf-8"), problems),
    )


def _encoding(name: Any, problems: list[str]) -> str:
    try:
        "".encode(str(name))  # raises for codecs that aren't about text, such as zlib
        return codecs.lookup(str(name)).name
    except LookupError:
        problems.append(f"encoding is {name!r}; expected a name such as utf-8 or latin-1")
        return "utf-8"


def _known(keys: Mapping[Any, Any], allowed: Sequence[str], where: str, problems: list[str]) -> None:
    for key in keys:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f"; expected one of {', '.join(allowed)}"
            problems.append(f"{where}{key} is no key{hint}")


def _event_types(content: Any, cell: Cell | None, problems: list[str]) -> dict[str, str]:
    expected = f"expected one of {', '.join(contract.EVENT_TYPES)}, or {IGNORE}"
    if cell is not None and cell.constant is not None and cell.constant not in contract.EVENT_TYPES:
        problems.append(f"columns.event_type.constant is {cell.constant!r}; {expected}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"event_types is {content!r}; expected the shop's words, each with an event type")
        return {}
    for word, name in content.items():
        if name not in (*contract.EVENT_TYPES, IGNORE):
            problems.append(f"event_types.{word} is {name!r}; {expected}")
    return {_word(word): str(name) for word, name in content.items()}


def _word(word: Any) -> str:
    # YAML reads yes and no as truths.
    return str(word).lower() if isinstance(word, bool) else str(word)


def _properties(content: Mapping[str, Any], where: str, problems: list[str]) -> tuple[str, ...]:
    properties = content.get("properties") or []
    if not (isinstance(properties, list) and all(isinstance(name, str) for name in properties)):
        problems.append(f"{where}properties is {properties!r}; expected a list of columns")
        return ()
    return tuple(properties)


def _catalog(content: Any, problems: list[str]) -> CatalogMapping | None:
    found = _about("catalog", content, CATALOG_FIELDS, problems)
    return None if found is None else CatalogMapping(*found)


def _users(content: Any, problems: list[str]) -> tuple[UserMapping, ...]:
    if not isinstance(content, list):
        found = _about("users", content, USER_FIELDS, problems)
        return () if found is None else (UserMapping(*found),)
    parts = [_about(f"users[{place}]", part, USER_FIELDS, problems) for place, part in enumerate(content)]
    problems += [
        f"users[{place}] is empty; expected path and columns" for place, part in enumerate(content) if part is None
    ]
    told = [name for part in parts if part is not None for name in part[2]]
    problems += [
        f"users: {name} is a property of several files" for name in dict.fromkeys(told) if told.count(name) > 1
    ]
    paths = [part[0] for part in parts if part is not None]
    problems += [
        f"users: {path} stands twice; join its properties" for path in dict.fromkeys(paths) if paths.count(path) > 1
    ]
    return tuple(UserMapping(*part) for part in parts if part is not None)


def _about(
    key: str, content: Any, fields: Sequence[str], problems: list[str]
) -> tuple[str, dict[str, Cell], tuple[str, ...]] | None:
    """The path, the columns and the properties of a file about products or users, whose id is the first of `fields`."""
    if content is None:
        return None
    if not isinstance(content, dict):
        problems.append(f"{key} is {content!r}; expected path and columns")
        return None
    _known(content, ("path", "columns", "properties"), f"{key}.", problems)
    columns = _cells(content.get("columns"), fields, f"{key}.columns", problems)
    if fields[0] not in columns:
        problems.append(f"{key}.columns.{fields[0]} is missing")
    path = content.get("path")
    if not isinstance(path, str) or not path or ".." in Path(path).parts or Path(path).is_absolute():
        problems.append(f"{key}.path is {path!r}; expected a file or folder below the export's folder")
    return str(path), columns, _properties(content, f"{key}.", problems)


def _cells(content: Any, fields: Sequence[str], where: str, problems: list[str]) -> dict[str, Cell]:
    if not isinstance(content, dict):
        problems.append(f"{where} is {content!r}; expected fields, each with a column")
        return {}
    _known(content, fields, f"{where}.", problems)
    return {name: _cell(name, spec, f"{where}.{name}", problems) for name, spec in content.items() if name in fields}


def _cell(name: str, spec: Any, where: str, problems: list[str]) -> Cell:
    if isinstance(spec, str) and spec:
        return Cell(columns=(spec,))
    if not isinstance(spec, dict):
        problems.append(f"{where} is {spec!r}; expected a column's name, or column: with options")
        return Cell()
    allowed = ["column", "constant", "optional"]
    allowed += ["format", "timezone"] if name in _MOMENTS else []
    allowed += ["decimal", "divide_by"] if name in _AMOUNTS else []
    allowed += ["separator", "levels"] if name == "category" else []
    allowed += ["negate"] if name == "in_stock" else []
    _known(spec, allowed, f"{where}.", problems)
    columns = _names(spec.get("column", []), f"{where}.column", problems)
    levels = _names(spec.get("levels", []), f"{where}.levels", problems)
    constant = spec.get("constant")
    if sum([bool(columns), bool(levels), constant is not None]) != 1:
        problems.append(f"{where} needs one of column, constant{' and levels' if name == 'category' else ''}")
    cell = Cell(
        columns=columns,
        constant=None if constant is None else str(constant),
        optional=spec.get("optional", False) is True,
        format=str(spec.get("format", cells.ISO)),
        timezone=str(spec.get("timezone", "UTC")),
        decimal=str(spec.get("decimal", ".")),
        divide_by=spec.get("divide_by", 1),
        separator=str(spec.get("separator", "")),
        levels=levels,
        negate=spec.get("negate", False) is True,
    )
    _check_options(cell, where, problems)
    return cell


def _names(value: Any, where: str, problems: list[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        problems.append(f"{where} is {value!r}; expected a column's name or a list of them")
        return ()
    return tuple(names)


def _check_options(cell: Cell, where: str, problems: list[str]) -> None:
    units = (*cells.EPOCH_UNITS, cells.NANOSECONDS)
    if cell.format != cells.ISO and cell.format not in units and "%" not in cell.format:
        problems.append(
            f"{where}.format is {cell.format!r}; expected iso, {', '.join(units)} or a pattern like %d/%m/%Y"
        )
    if "%z" in cell.format.lower():
        problems.append(f"{where}.format has an offset; expected iso for moments with one")
    try:
        zoneinfo.ZoneInfo(cell.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(f"{where}.timezone is {cell.timezone!r}; expected a name such as Europe/London")
    if cell.decimal not in (".", ","):
        problems.append(f"{where}.decimal is {cell.decimal!r}; expected . or ,")
    divide_by: Any = cell.divide_by  # of whatever type the file has
    if not isinstance(divide_by, int) or isinstance(divide_by, bool) or divide_by < 1:
        problems.append(f"{where}.divide_by is {cell.divide_by!r}; expected a whole number such as 100")
    if cell.separator and (not cell.separator.strip() or len(cell.separator) > 3):
        problems.append(f"{where}.separator is {cell.separator!r}; expected a sign such as . / > | or ,")
