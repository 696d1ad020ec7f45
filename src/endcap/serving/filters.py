"""What a request limits its answer to in, checked, or refused by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from endcap.contracts import columns as c
from endcap.serving.checks import check_float, kind_of, shown
from endcap.serving.errors import RequestError

FILTERS: Final = (c.CATEGORY, c.PRICE, c.IN_STOCK)
"""Columns of products that a filter may name."""
MAX_CATEGORIES: Final = 1_000
_LOW, _HIGH = "min", "max"


class Filter(msgspec.Struct, frozen=True):
    """What a product must be like. None: whatever."""

    categories: tuple[str, ...] | None = None
    """One of these, or below one."""
    lowest_price: float | None = None
    highest_price: float | None = None
    in_stock: bool | None = None


def check_filter(value: Any, place: str, known: Sequence[str]) -> Filter:
    """A filter by columns that the release knows of its products. Raises RequestError that names the place."""
    takes = ", ".join(known) or "nothing: the release knows neither category nor price nor stock of its products"
    if not isinstance(value, dict):
        raise RequestError(400, f"{place}: expected an object; found {kind_of(value)}. A filter takes: {takes}.")
    for name in value:
        if name not in known:
            raise RequestError(400, f"{place}: no filter by {shown(name)} here. A filter takes: {takes}.")
    found: dict[str, Any] = {}
    if (asked := value.get(c.CATEGORY)) is not None:
        found["categories"] = _categories(asked, f"{place}.{c.CATEGORY}")
    if (asked := value.get(c.PRICE)) is not None:
        found["lowest_price"], found["highest_price"] = _prices(asked, f"{place}.{c.PRICE}")
    if (asked := value.get(c.IN_STOCK)) is not None:
        if not isinstance(asked, bool):
            raise RequestError(400, f"{place}.{c.IN_STOCK}: expected true or false; found {kind_of(asked)}.")
        found["in_stock"] = asked
    return Filter(**found)


def _categories(asked: Any, place: str) -> tuple[str, ...]:
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        found = (
            "an empty list"
            if names == []
            else "a list with something else"
            if isinstance(names, list)
            else kind_of(names)
        )
        raise RequestError(400, f"{place}: expected a category's name, or a list of names; found {found}.")
    if len(names) > MAX_CATEGORIES:
        raise RequestError(400, f"{place}: expected at most {MAX_CATEGORIES:,} categories; found {len(names):,}.")
    return tuple(sorted(set(names)))


def _prices(asked: Any, place: str) -> tuple[float | None, float | None]:
    if not isinstance(asked, dict) or not set(asked) <= {_LOW, _HIGH}:
        found = kind_of(asked) if not isinstance(asked, dict) else "an object with other keys"
        raise RequestError(400, f"{place}: expected an object with {_LOW}, {_HIGH} or both; found {found}.")
    low, high = (
        None if asked.get(name) is None else check_float(asked[name], f"{place}.{name}") for name in (_LOW, _HIGH)
    )
    if low is not None and high is not None and low > high:
        raise RequestError(400, f"{place}: expected {_LOW} to be no more than {_HIGH}; found {low:g} and {high:g}.")
    return low, high
