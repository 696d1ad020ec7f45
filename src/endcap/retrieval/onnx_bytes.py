"""An int8 matrix in, the bytes of the ONNX graph that multiplies by it, and tells the maxima of blocks, out.

The graph is written by hand, field by field as `onnx.proto` numbers them, because the onnx package would add more to
a server's start-up time and memory than everything else it imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

_IR_VERSION = 8
_OPSET_VERSION = 15
_UINT8, _INT8, _INT32, _INT64 = 2, 3, 6, 7
# Of an attribute: a number, or a list of them.
_INT_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 7
_VARINT, _BYTES = 0, 2


def int8_product_graph(matrix_DN: npt.NDArray[np.int8], query_zero: int, block: int) -> bytes:
    """ModelProto: `scores[b, N] = (query[b, D] - query_zero) @ matrix`, with uint8 `query` and int32 `scores`.

    `maxima[b, N / block]` are those of so many neighboring columns each; `block` divides N.
    """
    dim, num_columns = matrix_DN.shape
    shape = np.array([0, -1, block], dtype="<i8")
    graph = b"".join(
        [
            _field(1, _node("MatMulInteger", ["query", "matrix", "query_zero"], "scores")),
            _field(1, _node("Reshape", ["scores", "blocks_shape"], "blocks")),
            _field(1, _node("ReduceMax", ["blocks"], "maxima", axes=2, keepdims=0)),
            _text(2, "int8_product"),
            _field(5, _tensor("matrix", _INT8, matrix_DN.shape, matrix_DN.tobytes())),
            _field(5, _tensor("query_zero", _UINT8, (), bytes([query_zero]))),
            _field(5, _tensor("blocks_shape", _INT64, shape.shape, shape.tobytes())),
            _field(11, _value("query", _UINT8, dim)),
            _field(12, _value("scores", _INT32, num_columns)),
            _field(12, _value("maxima", _INT32, num_columns // block)),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET_VERSION)
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, opset)


def _node(
    operator: str, inputs: list[str], output: str, *, axes: int | None = None, keepdims: int | None = None
) -> bytes:
    parts = [_text(1, name) for name in inputs] + [_text(2, output), _text(4, operator)]
    if axes is not None:
        parts.append(_field(5, _text(1, "axes") + _number(8, axes) + _number(20, _INTS_ATTRIBUTE)))
    if keepdims is not None:
        parts.append(_field(5, _text(1, "keepdims") + _number(3, keepdims) + _number(20, _INT_ATTRIBUTE)))
    return b"".join(parts)


def _tensor(name: str, data_type: int, dims: tuple[int, ...], raw: bytes) -> bytes:
    return b"".join([_number(1, size) for size in dims] + [_number(2, data_type), _text(8, name), _field(9, raw)])


def _value(name: str, data_type: int, width: int) -> bytes:
    """ValueInfoProto of a `[batch, width]` tensor."""
    shape = _field(1, _text(2, "batch")) + _field(1, _number(1, width))
    tensor_type = _number(1, data_type) + _field(2, shape)
    return _text(1, name) + _field(2, _field(1, tensor_type))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(number)


def _field(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(payload)) + payload


def _text(field: int, text: str) -> bytes:
    return _field(field, text.encode())
