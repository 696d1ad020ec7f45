"""A value of a request and the tensor that it is for in, the checked value out, or a refusal that names its place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from endcap.contracts.release import DType, Tensor
from endcap.serving.errors import RequestError

EVENT_TIME: Final = "event_time_us"

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT32_MAX = 3.4028234663852886e38

Check = Callable[[Any, str], Any]

MAX_LIST: Final = 50_000
"""Products in one list of a request: each is looked up, which takes a microsecond or two."""


class Feature(msgspec.Struct, frozen=True):
    """One input of a graph that a client gives."""

    tensor: Tensor
    check: Check

    @property
    def name(self) -> str:
        """Its key in an instance."""
        return self.tensor.name

    @property
    def is_list(self) -> bool:
        """Whether a value is a list."""
        return is_list(self.tensor)


def feature_of(tensor: Tensor) -> Feature:
    """The tensor, with what a value of it is checked by."""
    return Feature(tensor, _list_check(tensor) if is_list(tensor) else _SCALAR_CHECKS[tensor.dtype])


def is_list(tensor: Tensor) -> bool:
    """Whether one row's value is a list: the shape has a second dimension other than 1."""
    return len(tensor.shape) > 1 and tensor.shape[1] != 1


def takes_present_time(tensor: Tensor) -> bool:
    """Whether the input is the moment of the request, so that an absent value means this moment.

    A value of the snapshot would be the moment at which the release was made.
    """
    return tensor.name == EVENT_TIME and tensor.dtype == "INT64" and tensor.default is None


def default_value(tensor: Tensor) -> Any:
    """What an optional input is when neither the request nor the release has it.

    The manifest's default. Without one: the present time in microseconds UTC where the input takes that, else what
    the graphs read as unknown.
    """
    if tensor.default is not None:
        return tensor.default
    if takes_present_time(tensor):
        return time.time_ns() // 1000
    return {"STRING": "", "FLOAT": math.nan, "INT64": 0}[tensor.dtype]


def check_item_id(item_id: Any, item_id_type: str, place: str) -> Any:
    """A product's id, of the type that the release's ids have."""
    if type(item_id) is not (str if item_id_type == "STRING" else int):
        wanted = "a string" if item_id_type == "STRING" else "an integer"
        raise RequestError(400, f"{place}: expected a product id, {wanted}; found {kind_of(item_id)}.")
    return item_id


def check_item_ids(ids: Any, item_id_type: str, place: str) -> list[Any]:
    """A list of ids of products."""
    if not isinstance(ids, list):
        raise RequestError(400, f"{place}: expected a list of product ids; found {kind_of(ids)}.")
    if len(ids) > MAX_LIST:
        raise RequestError(400, f"{place}: expected at most {MAX_LIST:,} product ids; found {len(ids):,}.")
    if not (_are_strings(ids) if item_id_type == "STRING" else set(map(type, ids)) <= {int}):
        for i, item_id in enumerate(ids):
            check_item_id(item_id, item_id_type, f"{place}[{i}]")
    return ids


def _are_strings(values: list[Any]) -> bool:
    try:
        "".join(values)  # a third of the time of looking at each one's type
    except TypeError:
        return False
    return True


def _check_string(value: Any, place: str) -> str:
    if type(value) is not str:
        raise RequestError(400, f"{place}: expected a string (STRING); found {kind_of(value)}.")
    return value


def _check_int64(value: Any, place: str) -> int:
    if type(value) is not int:
        raise RequestError(400, f"{place}: expected an integer (INT64); found {kind_of(value)}.")
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise RequestError(400, f"{place}: expected an integer of 64 bits (INT64); found a larger one.")
    return value


def check_float(value: Any, place: str) -> float:
    """A number that 32 bits hold."""
    if type(value) is not float and type(value) is not int:
        raise RequestError(400, f"{place}: expected a number (FLOAT); found {kind_of(value)}.")
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise RequestError(400, f"{place}: expected a number within 32-bit float range (FLOAT); found a larger one.")
    return float(value)


_SCALAR_CHECKS: Final[dict[DType, Check]] = {"STRING": _check_string, "INT64": _check_int64, "FLOAT": check_float}


def _list_check(tensor: Tensor) -> Check:
    check = _SCALAR_CHECKS[tensor.dtype]
    length = tensor.shape[1]

    def check_list(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list):
            raise RequestError(400, f"{place}: expected a list of {tensor.dtype}; found {kind_of(value)}.")
        if length >= 0 and len(value) != length:
            raise RequestError(400, f"{place}: expected {length} values; found {len(value)}.")
        return [check(element, f"{place}[{i}]") for i, element in enumerate(value)]

    return check_list


def kind_of(value: Any) -> str:
    """The JSON type of a value, as a person says it. Never the value: it may be a person's."""
    names: Sequence[tuple[Any, str]] = (
        (bool, "true or false"),
        (str, "a string"),
        (int, "an integer"),
        (float, "a number with a fraction"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def shown(name: str) -> str:
    """A name of the caller's, cut and made printable for a message."""
    cut = name if len(name) <= 64 else name[:61] + "..."
    return ascii(cut)
