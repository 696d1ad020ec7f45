"""TensorFlow's TensorProto in, the values of an input out; and an answer's rectangle in, TensorProtos out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from endcap.contracts.release import DType
from endcap.serving.errors import RequestError
from endcap.serving.protos import tensorflow_pb2 as tf
from endcap.serving.tensors import PRODUCT_IDS, Rectangle, Values, num_values, text_of

# Type: how a value lies in `tensor_content`, and the field that holds values otherwise.
_NUMBERS: Final[Mapping[int, tuple[str, str]]] = {
    tf.DT_FLOAT: ("<f4", "float_val"),
    tf.DT_DOUBLE: ("<f8", "double_val"),
    tf.DT_HALF: ("<f2", "half_val"),
    tf.DT_INT8: ("<i1", "int_val"),
    tf.DT_INT16: ("<i2", "int_val"),
    tf.DT_INT32: ("<i4", "int_val"),
    tf.DT_INT64: ("<i8", "int64_val"),
    tf.DT_UINT8: ("<u1", "int_val"),
    tf.DT_UINT16: ("<u2", "int_val"),
    tf.DT_UINT32: ("<u4", "uint32_val"),
    tf.DT_UINT64: ("<u8", "uint64_val"),
    tf.DT_BOOL: ("|b1", "bool_val"),
}
_STRING_FIELD: Final = "string_val"


def values_of(tensor: tf.TensorProto, place: str) -> Values:
    """The values of a tensor. Raises RequestError (400) where shape, type and content don't fit each other."""
    dtype, shape_of = tensor.dtype, tensor.tensor_shape
    if dtype != tf.DT_STRING and dtype not in _NUMBERS:
        known = dtype in tf.DataType.values()
        found = tf.DataType.Name(dtype) if known else "none that is known"
        raise RequestError(400, f"{place}: expected strings, integers, numbers or truths as dtype; found {found}.")
    if shape_of.unknown_rank:
        raise RequestError(400, f"{place}: expected a shape; found one of unknown rank.")
    shape = tuple(dim.size for dim in shape_of.dim)
    number = num_values(shape, place)
    if tensor.tensor_content:
        return Values(shape, _content(tensor.tensor_content, dtype, number, place))
    given = getattr(tensor, _STRING_FIELD if dtype == tf.DT_STRING else _NUMBERS[dtype][1])
    if not len(given) and number:
        raise RequestError(400, f"{place}: expected {number:,} values; found none.")
    if len(given) > number:
        raise RequestError(400, f"{place}: expected {number:,} values, as the shape says; found {len(given):,}.")
    return Values(shape, _filled(_decoded(given, dtype, place), number))


def strings_of(tensor: tf.TensorProto, place: str) -> list[bytes]:
    """The strings of a tensor with one axis, or with one string a row. Raises RequestError (400)."""
    number = num_values([dim.size for dim in tensor.tensor_shape.dim], place)
    if tensor.dtype != tf.DT_STRING or not number or len(tensor.string_val) != number:
        raise RequestError(400, f"{place}: expected strings, as many as the shape says, and at least one.")
    return list(tensor.string_val)


def numbers_of(raw: bytes, kind: str) -> list[Any]:
    """Numbers that lie one after the other, of NumPy's `kind`."""
    numbers: list[Any] = np.frombuffer(raw, dtype=kind).tolist()
    return numbers


def _content(raw: bytes, dtype: int, number: int, place: str) -> list[Any]:
    if dtype == tf.DT_STRING:
        raise RequestError(400, f"{place}: expected strings in string_val; found them in tensor_content.")
    kind = _NUMBERS[dtype][0]
    num_bytes = number * np.dtype(kind).itemsize
    if len(raw) != num_bytes:
        raise RequestError(
            400,
            f"{place}: expected a tensor_content of {num_bytes:,} bytes, as shape and dtype say; found {len(raw):,}.",
        )
    return numbers_of(raw, kind)


def _decoded(given: Sequence[Any], dtype: int, place: str) -> list[Any]:
    if dtype == tf.DT_STRING:
        return [text_of(value, place) for value in given]
    if dtype == tf.DT_HALF:  # each is the bits of a number
        return numbers_of(np.array([value & 0xFFFF for value in given], dtype="<u2").tobytes(), "<f2")
    return list(given)


def _filled(values: list[Any], number: int) -> list[Any]:
    """TensorFlow leaves out, from the end, what is equal to the value before."""
    return values + values[-1:] * (number - len(values))


def outputs_as_protos(
    rectangle: Rectangle, item_id_type: DType, names: Sequence[str], into: Callable[[str], tf.TensorProto]
) -> None:
    """Write each of the outputs `names` where `into` says."""
    for name in names:
        tensor = into(name)
        for size in rectangle.shape:
            tensor.tensor_shape.dim.add(size=size)
        if name != PRODUCT_IDS:
            tensor.dtype = tf.DT_FLOAT
            tensor.float_val.extend(rectangle.scores.ravel().tolist())
        elif item_id_type == "STRING":
            tensor.dtype = tf.DT_STRING
            tensor.string_val.extend([item_id.encode() for item_id in rectangle.ids])
        else:
            tensor.dtype = tf.DT_INT64
            tensor.int64_val.extend(rectangle.ids)
