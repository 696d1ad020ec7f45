"""A torch function and what it is given in, ONNX nodes that compute the same out: every function that the models ask for.

Each writer has its torch function's parameters as far as it heeds them; to be given another is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import zip_longest
from math import prod
from typing import Any, Final

import numpy as np
import torch
from onnx import helper
from torch import Tensor
from torch.nn import functional

from endcap.training.tracing import Dim, Length, Trace, Traced, Writer, dims_of

Operand = Tensor | float
"""An integer or a truth value is one too."""


def _dims(x: Operand) -> tuple[Dim, ...]:
    return dims_of(x) if isinstance(x, Tensor) else ()


def _broadcast(*operands: Operand) -> tuple[Dim, ...]:
    shapes = [_dims(x) for x in operands]
    found: list[Dim] = []
    for lengths in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        wide = {length for length in lengths if length != 1}
        if len(wide) > 1:
            raise NotImplementedError(f"Tensors of {', '.join(map(str, shapes))} don't fit each other.")
        found.append(wide.pop() if wide else 1)
    return tuple(reversed(found))


def _promoted(left: Operand, right: Operand) -> torch.dtype:
    samples = [torch.empty([1] * len(_dims(x)), dtype=x.dtype) if isinstance(x, Tensor) else x for x in (left, right)]
    return torch.result_type(*samples)  # type: ignore[arg-type]


def _as(trace: Trace, x: Operand, kind: torch.dtype) -> str:
    """Name of the same as another type."""
    if not isinstance(x, Tensor):
        return trace.constant(torch.tensor(x, dtype=kind).numpy())
    if not isinstance(x, Traced):
        return trace.name_of(x.to(kind))
    if x.dtype == kind:
        return x.graph_name
    return trace.node(
        "Cast", [x.graph_name], to=helper.np_dtype_to_tensor_dtype(np.dtype(str(kind).removeprefix("torch.")))
    )


def _axis(x: Tensor, dim: int, more: int = 0) -> int:
    """A dimension that may be counted from the end; the result has `more` of them."""
    return range(len(dims_of(x)) + more)[dim]


def _unary(op: str) -> Writer:
    def write(trace: Trace, x: Tensor) -> Traced:
        return trace.write(op, [trace.name_of(x)], x.dtype, dims_of(x))

    return write


def _binary(op: str, kind: torch.dtype | None = None, *, turned: bool = False) -> Writer:
    """`kind` is the result's type where it isn't the operands'; `turned`, they come the other way round."""

    def write(trace: Trace, first: Operand, second: Operand) -> Traced:
        left, right = (second, first) if turned else (first, second)
        common = _promoted(left, right)
        if op == "Div" and not common.is_floating_point:
            common = torch.float32
        inputs = [_as(trace, left, common), _as(trace, right, common)]
        return trace.write(op, inputs, kind or common, _broadcast(left, right))

    return write


def _reduced(op: str) -> Writer:
    def write(trace: Trace, x: Tensor, dim: int, *, keepdim: bool = False) -> Traced:
        dims, axis = list(dims_of(x)), _axis(x, dim)
        dims[axis : axis + 1] = [1] if keepdim else []
        return trace.write(op, [trace.name_of(x), trace.constant_int64([axis])], x.dtype, dims, keepdims=int(keepdim))

    return write


def _filled(value: float | None = None) -> Writer:
    """Nodes of a tensor as long as another, all of one value: this one, or one that is given."""

    def write(trace: Trace, x: Tensor, fill_value: float | None = value) -> Traced:
        filled = trace.constant(torch.tensor(fill_value, dtype=x.dtype).numpy())
        return trace.write("Expand", [filled, trace.node("Shape", [trace.name_of(x)])], x.dtype, dims_of(x))

    return write


def _linear(trace: Trace, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Traced:
    if len(dims_of(x)) != 2:
        raise NotImplementedError(f"A dense layer is given {dims_of(x)}; its nodes take rows of one width.")
    inputs = [trace.name_of(tensor) for tensor in (x, weight, bias) if tensor is not None]
    return trace.write("Gemm", inputs, x.dtype, (dims_of(x)[0], dims_of(weight)[0]), transB=1)


def _batch_norm(
    trace: Trace,
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool,
    momentum: float,  # noqa: ARG001 - of training alone
    eps: float,
) -> Traced:
    _check_not(training, "standardised by the rows of a step")
    inputs = [trace.name_of(tensor) for tensor in (x, weight, bias, running_mean, running_var)]
    return trace.write("BatchNormalization", inputs, x.dtype, dims_of(x), epsilon=eps)


def _dropout(trace: Trace, x: Tensor, *, p: float, training: bool, inplace: bool) -> Tensor:  # noqa: ARG001 - as above
    _check_not(training, "dropped")
    return x


def _check_not(training: bool, done: str) -> None:
    if training:
        raise NotImplementedError(f"Values are {done} while a model trains: call eval() before it is exported.")


def _relu(trace: Trace, x: Tensor, *, inplace: bool = False) -> Traced:  # noqa: ARG001 - the result is the same
    return trace.write("Relu", [trace.name_of(x)], x.dtype, dims_of(x))


def _gelu(trace: Trace, x: Tensor, *, approximate: str = "none") -> Traced:
    return trace.write("Gelu", [trace.name_of(x)], x.dtype, dims_of(x), approximate=approximate)


def _silu(trace: Trace, x: Tensor, *, inplace: bool = False) -> Traced:  # noqa: ARG001 - the result is the same
    name = trace.name_of(x)
    return trace.write("Mul", [name, trace.node("Sigmoid", [name])], x.dtype, dims_of(x))


def _log1p(trace: Trace, x: Tensor) -> Traced:
    more = trace.node("Add", [trace.name_of(x), _as(trace, 1, x.dtype)])
    return trace.write("Log", [more], x.dtype, dims_of(x))


def _square(trace: Trace, x: Tensor) -> Traced:
    return trace.write("Mul", [trace.name_of(x)] * 2, x.dtype, dims_of(x))


def _clamp(trace: Trace, x: Tensor, min: float | None = None, max: float | None = None) -> Traced:  # noqa: A002 - torch's
    bounds = [_as(trace, bound, x.dtype) if bound is not None else "" for bound in (min, max)]
    return trace.write("Clip", [trace.name_of(x), *bounds], x.dtype, dims_of(x))


def _nan_to_num(trace: Trace, x: Tensor, *, nan: float) -> Traced:
    name = trace.name_of(x)
    known = trace.node("Where", [trace.node("IsNaN", [name]), _as(trace, nan, x.dtype), name])
    limits = [_as(trace, bound, x.dtype) for bound in (torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)]
    return trace.write("Clip", [known, *limits], x.dtype, dims_of(x))


def _is_nan(trace: Trace, x: Tensor) -> Traced:
    return trace.write("IsNaN", [trace.name_of(x)], torch.bool, dims_of(x))


def _where(trace: Trace, condition: Tensor, left: Operand, right: Operand) -> Traced:
    common = _promoted(left, right)
    inputs = [trace.name_of(condition), _as(trace, left, common), _as(trace, right, common)]
    return trace.write("Where", inputs, common, _broadcast(condition, left, right))


def _to(trace: Trace, x: Tensor, dtype: torch.dtype) -> Traced:
    return Traced(trace, _as(trace, x, dtype), dtype, dims_of(x))


def _long(trace: Trace, x: Tensor) -> Traced:
    return _to(trace, x, torch.int64)


def _embedding(
    trace: Trace, index: Tensor, weight: Tensor, *, max_norm: float | None = None, **_of_gradients: object
) -> Traced:
    if max_norm is not None:
        raise NotImplementedError(f"A table's vectors are cut to a length of {max_norm} where they are looked up.")
    return _index_select(trace, weight, 0, index)


def _index_select(trace: Trace, x: Tensor, dim: int, index: Tensor) -> Traced:
    dims, axis = list(dims_of(x)), _axis(x, dim)
    dims[axis : axis + 1] = dims_of(index)
    return trace.write("Gather", [trace.name_of(x), trace.name_of(index)], x.dtype, dims, axis=axis)


def _cat(trace: Trace, tensors: Sequence[Tensor], dim: int = 0) -> Traced:
    axis = _axis(tensors[0], dim)
    # What is empty has nothing to add, but would have to be computed.
    parts = [x for x in tensors if dims_of(x)[axis] != 0] or tensors[:1]
    dims = list(dims_of(parts[0]))
    dims[axis] = _joined([dims_of(x)[axis] for x in parts], sum, "+")
    kind = reduce(torch.promote_types, (x.dtype for x in tensors))
    return trace.write("Concat", [_as(trace, x, kind) for x in parts], kind, dims, axis=axis)


def _joined(lengths: Sequence[Dim], join: Callable[[list[int]], int], sign: str) -> Dim:
    known = [length for length in lengths if isinstance(length, int)]
    return join(known) if len(known) == len(lengths) else sign.join(map(str, lengths))


def _stack(trace: Trace, tensors: Sequence[Tensor], dim: int = 0) -> Traced:
    return _cat(trace, [_unsqueeze(trace, x, dim) for x in tensors], dim)


def _chunk(trace: Trace, x: Tensor, chunks: int, dim: int) -> list[Tensor]:
    if chunks == 1:
        return [x]
    axis = _axis(x, dim)
    whole = dims_of(x)[axis]
    if not isinstance(whole, int):
        raise NotImplementedError(f"A dimension of unknown length, {whole}, is cut into {chunks} chunks.")
    length = -(-whole // chunks)
    around = (slice(None),) * axis
    return [_getitem(trace, x, (*around, slice(start, start + length))) for start in range(0, whole, length)]


def _unsqueeze(trace: Trace, x: Tensor, dim: int) -> Traced:
    dims, axis = list(dims_of(x)), _axis(x, dim, 1)
    dims.insert(axis, 1)
    return trace.write("Unsqueeze", [trace.name_of(x), trace.constant_int64([axis])], x.dtype, dims)


def _squeeze(trace: Trace, x: Tensor, dim: int) -> Traced:
    dims, axis = list(dims_of(x)), _axis(x, dim)
    if dims.pop(axis) != 1:
        raise NotImplementedError(f"Dimension {axis} of {dims_of(x)} isn't 1 long: it can't be squeezed.")
    return trace.write("Squeeze", [trace.name_of(x), trace.constant_int64([axis])], x.dtype, dims)


def _pad(trace: Trace, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Traced:
    dims = list(dims_of(x))
    before, after = [0] * len(dims), [0] * len(dims)
    for place in range(len(pad) // 2):  # the last dimension first
        axis = len(dims) - 1 - place
        before[axis], after[axis] = pad[2 * place : 2 * place + 2]
        length = dims[axis]
        if not isinstance(length, int):
            raise NotImplementedError(f"A dimension of unknown length, {length}, is padded.")
        dims[axis] = before[axis] + length + after[axis]
    inputs = [trace.name_of(x), trace.constant_int64(before + after), _as(trace, value or 0, x.dtype)]
    return trace.write("Pad", inputs, x.dtype, dims, mode=mode)


def _reshape(trace: Trace, x: Tensor, *shape: Any) -> Traced:
    lengths: Sequence[int | Length] = shape[0] if isinstance(shape[0], tuple) else shape
    dims: list[Dim] = [length.label if isinstance(length, Length) else length for length in lengths]
    if dims == [-1]:
        dims = [_joined(dims_of(x), prod, "*")]
    elif -1 in dims:
        raise NotImplementedError(f"{dims_of(x)} is brought to {dims}: say the length of each dimension.")
    return trace.write("Reshape", [trace.name_of(x), trace.vector(lengths)], x.dtype, dims, allowzero=1)


def _expand(trace: Trace, x: Tensor, *sizes: Any) -> Traced:
    """-1 leaves a dimension as long as it is, as 1 does in ONNX."""
    lengths = [size if isinstance(size, Length) or size != -1 else 1 for size in sizes]
    dims = [
        length.label if isinstance(length, Length) else (length if length != 1 else old)
        for old, length in zip(dims_of(x), lengths, strict=True)
    ]
    return trace.write("Expand", [trace.name_of(x), trace.vector(lengths)], x.dtype, dims)


def _getitem(trace: Trace, x: Tensor, index: Any) -> Tensor:
    """Slices and single places."""
    parts = index if isinstance(index, tuple) else (index,)
    found = x
    # From behind: a place that is taken leaves no dimension.
    for axis, part in reversed(list(enumerate(parts))):
        if isinstance(part, slice):
            found = _sliced(trace, found, axis, part)
        elif isinstance(part, int):
            found = _taken(trace, found, axis, part)
        else:
            raise NotImplementedError(f"{dims_of(x)} is asked for {index!r}: places and slices have nodes.")
    return found


def _taken(trace: Trace, x: Tensor, axis: int, place: int) -> Traced:
    dims = list(dims_of(x))
    length = dims.pop(axis)
    if not isinstance(length, int):
        raise NotImplementedError(f"A dimension of unknown length, {length}, is asked for place {place}.")
    row = trace.constant(np.array(range(length)[place]))
    return trace.write("Gather", [trace.name_of(x), row], x.dtype, dims, axis=axis)


def _sliced(trace: Trace, x: Tensor, axis: int, part: slice) -> Tensor:
    dims = list(dims_of(x))
    length = dims[axis]
    if part.start is None and part.stop is None and part.step is None:
        return x
    if part.step is None and part.start is None and isinstance(part.stop, Length):
        # Whoever asks for so many knows that there are.
        start, stop, dims[axis] = trace.constant_int64([0]), part.stop.name, part.stop.label
    elif part.step is None and isinstance(length, int) and not isinstance(part.stop, Length):
        first, last, _ = part.indices(length)
        start, stop = trace.constant_int64([first]), trace.constant_int64([last])
        dims[axis] = max(last - first, 0)
    else:
        raise NotImplementedError(f"A dimension of length {length} is asked for {part}.")
    return trace.write("Slice", [trace.name_of(x), start, stop, trace.constant_int64([axis])], x.dtype, dims)


FUNCTIONS: Final[Mapping[Callable[..., Any], Writer]] = {
    Tensor.add: _binary("Add"),
    Tensor.sub: _binary("Sub"),
    Tensor.__rsub__: _binary("Sub", turned=True),
    Tensor.mul: _binary("Mul"),
    Tensor.div: _binary("Div"),
    Tensor.__rdiv__: _binary("Div", turned=True),
    Tensor.__pow__: _binary("Pow"),
    Tensor.gt: _binary("Greater", torch.bool),
    Tensor.__eq__: _binary("Equal", torch.bool),
    Tensor.__and__: _binary("And"),
    Tensor.__invert__: _unary("Not"),
    Tensor.sqrt: _unary("Sqrt"),
    Tensor.square: _square,
    Tensor.clamp: _clamp,
    Tensor.sum: _reduced("ReduceSum"),
    Tensor.mean: _reduced("ReduceMean"),
    Tensor.amin: _reduced("ReduceMin"),
    Tensor.to: _to,
    Tensor.long: _long,
    Tensor.dim: lambda _, x: len(dims_of(x)),
    Tensor.unsqueeze: _unsqueeze,
    Tensor.squeeze: _squeeze,
    Tensor.reshape: _reshape,
    Tensor.expand: _expand,
    Tensor.chunk: _chunk,
    Tensor.__getitem__: _getitem,
    torch.exp: _unary("Exp"),
    torch.log1p: _log1p,
    torch.sigmoid: _unary("Sigmoid"),
    torch.tanh: _unary("Tanh"),
    torch.isnan: _is_nan,
    torch.nan_to_num: _nan_to_num,
    torch.where: _where,
    torch.full_like: _filled(),
    torch.zeros_like: _filled(0.0),
    torch.ones_like: _filled(1.0),
    torch.cat: _cat,
    torch.stack: _stack,
    torch.index_select: _index_select,
    functional.embedding: _embedding,
    functional.linear: _linear,
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
    functional.relu: _relu,
    functional.gelu: _gelu,
    functional.silu: _silu,
    functional.pad: _pad,
}
"""By torch function, as models call them."""
