"""An int8 matrix in, the bytes of the one-node ONNX graph that multiplies by it out.

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
_UINT8, _INT8, _INT32 = 2, 3, 6
_VARINT, _BYTES = 0, 2


def int8_product_graph(matrix_DN: npt.NDArray[np.int8], query_zero: int) -> bytes:
    """ModelProto: `scores[b, N] = (query[b, D] - query_zero) @ matrix`, with uint8 `query` and int32 `scores`."""
    dim, num_columns = matrix_DN.shape
    node = b"".join(
        [_text(1, name) for name in ("query", "matrix", "query_zero")] + [_text(2, "scores"), _text(4, "MatMulInteger")]
    )
    graph = b"".join(
        [
            _field(1, node),
            _text(2, "int8_product"),
            _field(5, _tensor("matrix", _INT8, matrix_DN.shape, matrix_DN.tobytes())),
            _field(5, _tensor("query_zero", _UINT8, (), bytes([query_zero]))),
            _field(11, _value("query", _UINT8, dim)),
            _field(12, _value("scores", _INT32, num_columns)),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET_VERSION)
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, opset)


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
