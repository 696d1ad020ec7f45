"""Named tensors of a request in, instances as JSON would give them out; an answer's lists in, rectangles out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from endcap.contracts import columns as c
from endcap.serving.checks import shown
from endcap.serving.errors import RequestError
from endcap.serving.instances import EXCLUDE, FILTER, ONLY, K, Limits, PairsReader, QueryReader
from endcap.serving.requests import check_number

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.contracts.release import DType
    from endcap.serving.answers import Arrays

# A tensor of one value may claim any size: what it comes to is bounded before it is made. Over all inputs of a request.
MAX_VALUES: Final = 2**20
_MAX_AXES: Final = 3
_MAX_NAME_LENGTH: Final = 64

FILTER_CATEGORY: Final = f"{FILTER}_{c.CATEGORY}"
FILTER_PRICE_MIN: Final = f"{FILTER}_{c.PRICE}_min"
FILTER_PRICE_MAX: Final = f"{FILTER}_{c.PRICE}_max"
FILTER_IN_STOCK: Final = f"{FILTER}_{c.IN_STOCK}"
FILTER_INPUTS: Final = (FILTER_CATEGORY, FILTER_PRICE_MIN, FILTER_PRICE_MAX, FILTER_IN_STOCK)
PRODUCT_IDS: Final = "product_ids"
SCORES: Final = "scores"
OUTPUTS: Final = (PRODUCT_IDS, SCORES)


@dataclass(frozen=True, slots=True)
class Values:
    """One input, row by row."""

    shape: tuple[int, ...]
    flat: Sequence[Any]

    @property
    def is_single(self) -> bool:
        """Whether it is one value, whatever its axes."""
        return len(self.flat) == 1

    def rows(self) -> list[list[Any]]:
        """What lies along the first axis, everything in a row after the other."""
        width = math.prod(self.shape[1:])
        return [list(self.flat[start : start + width]) for start in range(0, len(self.flat), width)]


def num_values(shape: Sequence[int], place: str) -> int:
    """How many values a shape holds. Raises RequestError (400) for one that can't be, or is too large."""
    if len(shape) > _MAX_AXES:
        raise RequestError(400, f"{place}: expected a shape of at most {_MAX_AXES} axes; found {len(shape)}.")
    if any(size < 0 for size in shape):
        raise RequestError(400, f"{place}: expected a shape of sizes from 0; found a negative one.")
    number = math.prod(shape)
    if number > MAX_VALUES:
        raise RequestError(
            400, f"{place}: expected at most {MAX_VALUES:,} values; the shape asks for more. Send them in parts."
        )
    return number


def place_of(name: str) -> str:
    """An input's place in a message, its name cut and made printable."""
    return f"inputs.{name if name.isidentifier() and len(name) <= _MAX_NAME_LENGTH else shown(name)}"


def text_of(raw: bytes, place: str) -> str:
    """A string that came as bytes. Raises RequestError (400) where they are no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise RequestError(400, f"{place}: expected text in UTF-8; found other bytes.") from None


@dataclass(slots=True)
class _Parts:
    """What inputs come to: keys of each instance, and what holds for all."""

    place: str
    instances: list[dict[str, Any]]
    general: dict[str, Any] = field(default_factory=dict)

    def scalars(self, name: str, values: Values) -> list[Any]:
        """One value a row."""
        num_rows = len(self.instances)
        if len(values.flat) != num_rows or math.prod(values.shape[1:]) != 1:
            raise RequestError(
                400,
                f"{self.place}.{name}: expected the shape [{num_rows}] or [{num_rows}, 1]; found {list(values.shape)}.",
            )
        return list(values.flat)

    def lists(self, name: str, values: Values) -> list[list[Any]]:
        """A list a row; of one customer the rows' axis may be left out."""
        num_rows = len(self.instances)
        if num_rows == 1 and len(values.shape) == 1:
            return [list(values.flat)]
        if len(values.shape) != 2 or values.shape[0] != num_rows:
            raise RequestError(
                400, f"{self.place}.{name}: expected the shape [{num_rows}, length]; found {list(values.shape)}."
            )
        return values.rows() if values.flat else [[] for _ in range(num_rows)]

    def give(self, name: str, values: Sequence[Any]) -> None:
        for instance, value in zip(self.instances, values, strict=True):
            if value is not None:
                instance[name] = value


def instances_of(
    given: Mapping[str, Values], reader: QueryReader | PairsReader, place: str = "inputs", num_rows: int | None = None
) -> tuple[list[dict[str, Any]], Limits]:
    """Instances, and what is said of all of them.

    How many there are say the customers' ids, or another feature of theirs, where `num_rows` doesn't. Raises
    RequestError (400) for a shape that doesn't fit.
    """
    if sum(len(values.flat) for values in given.values()) > MAX_VALUES:
        raise RequestError(400, f"Expected at most {MAX_VALUES:,} values in all inputs. Send them in parts.")
    known = {feature.name: feature for feature in reader.features}
    if num_rows is None:
        first = next((given[name] for name in known if name in given), None)
        if first is None:
            return [{}], Limits()  # Refused by what reads it, with all that is missing.
        num_rows = first.shape[0] if first.shape else 1
    check_number(num_rows)
    parts = _Parts(place, [{} for _ in range(num_rows)])
    for name, values in given.items():
        if name in known:
            parts.give(name, parts.lists(name, values) if known[name].is_list else parts.scalars(name, values))
        elif name in reader.history_names:
            parts.give(name, [_unpadded(row, reader.item_id_type) for row in parts.lists(name, values)])
        elif isinstance(reader, PairsReader) or name not in (K, EXCLUDE, ONLY, *FILTER_INPUTS):
            continue
        elif name in (EXCLUDE, ONLY):
            _take_list(name, values, parts, reader.item_id_type)
        elif name == FILTER_CATEGORY:
            _take_list(name, values, parts, "STRING")
        else:
            _take_scalar(name, values, parts)
    if isinstance(reader, PairsReader):
        _take_products(given, parts, reader)
    _hand_on_rest(given, parts, reader)
    _gather_filters(parts)
    limits = {name: value for name, value in parts.general.items() if name in Limits._fields}
    return parts.instances, Limits(**limits)


def _take_scalar(name: str, values: Values, parts: _Parts) -> None:
    """One value for all instances, or one each."""
    if values.is_single:
        parts.general[name] = values.flat[0]
    else:
        parts.give(name, parts.scalars(name, values))


def _take_list(name: str, values: Values, parts: _Parts, dtype: DType) -> None:
    """One list for all instances, or one each. Of padding alone: none."""
    if len(values.shape) < 2 or (values.shape[0] == 1 and len(values.shape) == 2):
        found = _unpadded(values.flat, dtype)
        if found:
            parts.general[name] = found
    else:
        parts.give(name, [_unpadded(row, dtype) or None for row in parts.lists(name, values)])


def _unpadded(row: Sequence[Any], dtype: DType) -> list[Any]:
    """The ids of a row that was filled up to the longest."""
    padding = "" if dtype == "STRING" else 0
    return [value for value in row if value != padding]


def _take_products(given: Mapping[str, Values], parts: _Parts, reader: PairsReader) -> None:
    """The products to be scored, and what is said of them: places of padding are none in either."""
    if reader.item_name not in given:
        return
    values = given[reader.item_name]
    num_rows = len(parts.instances)
    is_single = len(values.shape) < 2 and len(values.flat) == num_rows
    ids = [[value] for value in values.flat] if is_single else parts.lists(reader.item_name, values)
    padding = "" if reader.item_id_type == "STRING" else 0
    kept = [[i for i, value in enumerate(row) if value != padding] for row in ids]
    parts.give(reader.item_name, [[row[i] for i in places] for row, places in zip(ids, kept, strict=True)])
    for feature in reader.product_features:
        if feature.name not in given:
            continue
        said = given[feature.name]
        width = len(ids[0]) if ids else 0
        num_each = said.shape[-1] if feature.is_list and said.shape else 1
        if len(said.flat) != num_rows * width * num_each or (said.shape and said.shape[0] != num_rows):
            wanted = [num_rows, *([] if is_single else [width]), *(["length"] if feature.is_list else [])]
            raise RequestError(
                400,
                f"{parts.place}.{feature.name}: expected a value for each product, the shape {wanted}; found {list(said.shape)}.",
            )
        each = said.flat
        if feature.is_list:
            each = [list(said.flat[i : i + num_each]) for i in range(0, len(said.flat), num_each)]
        parts.give(feature.name, [[each[row * width + i] for i in places] for row, places in enumerate(kept)])


def _hand_on_rest(given: Mapping[str, Values], parts: _Parts, reader: QueryReader | PairsReader) -> None:
    """Leave in, by name, what nothing here knows: what reads the instances says which names there are."""
    known = {tensor.name for tensor in reader.client_inputs} | {*reader.history_names, *parts.general}
    if isinstance(reader, QueryReader):
        known |= {K, EXCLUDE, ONLY, *FILTER_INPUTS}
    for name in given.keys() - known:
        for instance in parts.instances[:1]:
            instance[name] = None


def _gather_filters(parts: _Parts) -> None:
    """`filter_price_min` and the like become what `filter` is in JSON."""
    general = _filter_of(parts.general)
    if general:
        parts.general[FILTER] = general
    for instance in parts.instances:
        own = _filter_of(instance)
        if own:
            instance[FILTER] = general | own


def _filter_of(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (categories := said.pop(FILTER_CATEGORY, None)) is not None:
        found[c.CATEGORY] = categories
    prices = {"min": said.pop(FILTER_PRICE_MIN, None), "max": said.pop(FILTER_PRICE_MAX, None)}
    if any(price is not None for price in prices.values()):
        found[c.PRICE] = {name: price for name, price in prices.items() if price is not None}
    if (in_stock := said.pop(FILTER_IN_STOCK, None)) is not None:
        # An example has no truths, but integers.
        found[c.IN_STOCK] = bool(in_stock) if in_stock in (0, 1) and isinstance(in_stock, int) else in_stock
    return found


@dataclass(frozen=True, slots=True)
class Rectangle:
    """An answer of rows that are equally long: short ones are filled up with "" or 0, and scores of 0."""

    shape: tuple[int, int]
    ids: list[Any]
    scores: npt.NDArray[np.float32]


def rectangle_of(arrays: Arrays, item_id_type: DType) -> Rectangle:
    """The answer to all instances, row by row."""
    width = max(len(ids) for ids in arrays.ids)
    padding = "" if item_id_type == "STRING" else 0
    ids = [one for row in arrays.ids for one in (*row, *[padding] * (width - len(row)))]
    scores = np.zeros((len(arrays.scores), width), dtype=np.float32)
    for row, numbers in zip(scores, arrays.scores, strict=True):
        row[: len(numbers)] = numbers
    return Rectangle((len(arrays.ids), width), ids, scores)


def outputs_of(asked: Sequence[str], place: str) -> tuple[str, ...]:
    """The outputs that are asked for; all where none is named. Raises RequestError (400) for one that there isn't."""
    for name in asked:
        if name not in OUTPUTS:
            raise RequestError(400, f"{place}: there is no output {shown(name)}; there are: {', '.join(OUTPUTS)}.")
    return tuple(dict.fromkeys(asked)) or OUTPUTS
