"""Tensors of the Open Inference Protocol in, checked predictions out; and what is said of models and answers, back.

What JSON, its binary extension and gRPC have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from endcap.contracts.release import DType
from endcap.serving.checks import kind_of, shown
from endcap.serving.errors import RequestError
from endcap.serving.instances import K
from endcap.serving.requests import PredictRequest, RequestDecoder
from endcap.serving.tensors import OUTPUTS, PRODUCT_IDS, Rectangle, Values, instances_of, num_values, text_of
from endcap.serving.versions import ServedModel, Version

SERVER: Final = "endcap"
EXTENSIONS: Final = ("binary_tensor_data",)
PLATFORM: Final = "endcap_release"
SIGNATURE_NAME: Final = "signature_name"
TIMEOUT: Final = "timeout"
"""A deadline in microseconds, as Triton's clients send it."""

BYTES: Final = "BYTES"
_LENGTH_BYTES: Final = 4
_DATATYPES: Final[Mapping[DType, str]] = {"STRING": BYTES, "INT64": "INT64", "FLOAT": "FP32"}
# How a value lies in raw content.
_NUMBERS: Final[Mapping[str, str]] = {
    "BOOL": "|b1",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


def values_of_raw(datatype: str, shape: Sequence[int], raw: bytes, place: str) -> Values:
    """The values of raw content. Raises RequestError (400) where datatype, shape and content don't fit each other."""
    check_datatype(datatype, place)
    number = num_values(shape, place)
    if datatype == BYTES:
        return Values(tuple(shape), _strings_of(raw, number, place))
    num_bytes = number * np.dtype(_NUMBERS[datatype]).itemsize
    if len(raw) != num_bytes:
        raise RequestError(
            400, f"{place}: expected {num_bytes:,} bytes, as shape and datatype say; found {len(raw):,}."
        )
    return Values(tuple(shape), np.frombuffer(raw, dtype=_NUMBERS[datatype]).tolist())


def values_of_list(datatype: str, shape: Sequence[int], values: Sequence[Any], place: str) -> Values:
    """The values that a flat list holds."""
    check_datatype(datatype, place)
    number = num_values(shape, place)
    if len(values) != number:
        raise RequestError(400, f"{place}: expected {number:,} values, as the shape says; found {len(values):,}.")
    return Values(tuple(shape), [text_of(one, place) if isinstance(one, bytes) else one for one in values])


def check_datatype(datatype: str, place: str) -> None:
    """Refuse what is no type of the protocol."""
    if datatype != BYTES and datatype not in _NUMBERS:
        raise RequestError(
            400, f"{place}: unknown datatype {shown(datatype)}; expected one of {', '.join((BYTES, *_NUMBERS))}."
        )


def _strings_of(raw: bytes, number: int, place: str) -> list[str]:
    """Each string has its length before it, in four bytes, the lowest first."""
    if number > len(raw) // _LENGTH_BYTES:
        raise RequestError(400, f"{place}: expected {number:,} strings with their lengths; the content is too short.")
    strings = []
    position = 0
    for _ in range(number):
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(raw[position:start], "little")
        if start > len(raw) or position > len(raw):
            raise RequestError(400, f"{place}: a string's length leads out of the content.")
        strings.append(text_of(raw[start:position], place))
    if position != len(raw):
        raise RequestError(400, f"{place}: expected {number:,} strings with their lengths; found more behind them.")
    return strings


def checked(
    given: Mapping[str, Values], parameters: Mapping[str, Any], decoder: RequestDecoder
) -> tuple[PredictRequest, DType]:
    """A request whose answer is arrays, and the type of product ids. Raises RequestError (400)."""
    signature_name = parameters.get(SIGNATURE_NAME)
    if signature_name is not None and not isinstance(signature_name, str):
        raise RequestError(400, f"parameters.{SIGNATURE_NAME}: expected a string; found {kind_of(signature_name)}.")
    if parameters.get(K) is not None and K not in given:
        given = {**given, K: Values((), [parameters[K]])}
    reader = decoder.reader(signature_name)
    instances, limits = instances_of(given, reader)
    return decoder.check(signature_name, instances, limits, "arrays", "inputs"), reader.item_id_type


def timeout_of(parameters: Mapping[str, Any], otherwise: float) -> float:
    """The deadline in seconds: what the parameters say, where that is sooner."""
    timeout = parameters.get(TIMEOUT)
    if timeout is None or timeout == 0:
        return otherwise
    if type(timeout) is not int or timeout < 0:
        raise RequestError(400, f"parameters.{TIMEOUT}: expected whole microseconds.")
    return min(timeout / 1e6, otherwise)


def datatype_of(output: str, item_id_type: DType) -> str:
    """The type of an output."""
    return _DATATYPES[item_id_type if output == PRODUCT_IDS else "FLOAT"]


def raw_of(output: str, rectangle: Rectangle, item_id_type: DType) -> bytes:
    """An output as raw content."""
    if output != PRODUCT_IDS:
        return rectangle.scores.astype("<f4").tobytes()
    if item_id_type == "INT64":
        return np.array(rectangle.ids, dtype="<i8").tobytes()
    encoded = [item_id.encode() for item_id in rectangle.ids]
    return b"".join([part for one in encoded for part in (len(one).to_bytes(_LENGTH_BYTES, "little"), one)])


def describe_model(model: ServedModel, version: Version) -> dict[str, Any]:
    """What the protocol says of a model: its versions, and what the default signature takes and gives."""
    predictor = version.in_service.predictor
    reader = predictor.decoder.reader(None)
    inputs = [
        {"name": tensor.name, "datatype": _DATATYPES[tensor.dtype], "shape": list(tensor.shape)}
        for tensor in reader.client_inputs
    ]
    outputs = [
        {"name": name, "datatype": datatype_of(name, reader.item_id_type), "shape": [-1, -1]} for name in OUTPUTS
    ]
    return {
        "name": model.name,
        "versions": [str(number) for number in model.available],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


def number_of(version: str) -> int | None:
    """A version's number, None where none is named. Raises RequestError (404) for what is no number."""
    if not version:
        return None
    if not (version.isascii() and version.isdigit()) or len(version) > 18:
        raise RequestError(404, f"There is no version {shown(version)} here: a version is a number.")
    return int(version)
