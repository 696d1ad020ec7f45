"""A module's own `forward` in, the ONNX nodes of what it asks torch for out.

A `Traced` stands for a tensor that a request will bring. A torch function that is given one doesn't compute: it writes its
nodes. So a graph says what the module says, and a function without nodes is an error. Tensors that are there already,
weights and what is computed from them alone, become constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from endcap.features.transforms.graph import GraphBuilder

Dim = int | str
"""Length of a dimension, or the name of one that only a request knows."""
Writer = Callable[..., Any]
"""Takes the trace and what the torch function was given; writes nodes."""

_TYPES = {torch.float32: "FLOAT", torch.int64: "INT64"}
_SMALL = 64


class Length:
    """Length of a dimension that only a request knows: in the graph, a vector of one integer."""

    def __init__(self, trace: Trace, label: str, name: str) -> None:
        """`name` is that of the vector; `label` that of the dimension."""
        self._trace, self.label, self.name = trace, label, name

    def __mul__(self, other: int | Length) -> Length:
        factor = self._trace.vector([other])
        label = f"{self.label}*{other.label if isinstance(other, Length) else other}"
        return Length(self._trace, label, self._trace.node("Mul", [self.name, factor]))

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError(
            f"A module asks whether the length {self.label} is {other}: a graph has one answer for all."
        )

    def __bool__(self) -> bool:
        return self != 0


class Trace(GraphBuilder):
    """The graph that a trace writes: equal nodes and small constants once, nothing that no output needs."""

    def __init__(
        self, name: str, functions: Mapping[Callable[..., Any], Writer], weights: Mapping[str, Tensor]
    ) -> None:
        """`functions` are the torch functions that have nodes; `weights` keep their names."""
        super().__init__(name)
        self.functions = functions
        self._written: dict[Any, list[str]] = {}
        # Each tensor is kept, so that no other gets its id.
        self._named = {id(tensor): (tensor, name) for name, tensor in weights.items()}
        self._stored: dict[int, tuple[Tensor, str]] = {}

    def traced_input(self, name: str, kind: torch.dtype, dims: Sequence[Dim]) -> Traced:
        """Declare an input of the graph."""
        return Traced(self, self.input(name, _TYPES[kind], list(dims)), kind, dims)

    def publish(self, tensor: Tensor, name: str) -> None:
        """Make a result an output of the graph."""
        self.output(self.name_of(tensor), name, _TYPES[tensor.dtype], list(dims_of(tensor)))

    def write(
        self, op: str, inputs: Sequence[str], kind: torch.dtype, dims: Sequence[Dim], **attributes: Any
    ) -> Traced:
        """Add a node; what it makes has this type and these dimensions."""
        return Traced(self, self.node(op, list(inputs), **attributes), kind, dims)

    def name_of(self, tensor: Tensor) -> str:
        """A traced tensor's name; any other becomes a constant."""
        if isinstance(tensor, Traced):
            return tensor.graph_name
        if id(tensor) not in self._stored:
            self._stored[id(tensor)] = tensor, self._store(tensor)
        return self._stored[id(tensor)][1]

    def vector(self, lengths: Sequence[int | Length]) -> str:
        """Lengths as one vector of integers."""
        parts = [length.name if isinstance(length, Length) else self.constant_int64([length]) for length in lengths]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

    def constant(self, values: np.ndarray | list[Any]) -> str:
        """Store an array. Returns its name."""
        if isinstance(values, list) or values.size > _SMALL:
            return super().constant(values)
        return self._once(
            (values.dtype.str, values.shape, values.tobytes()), lambda: [super(Trace, self).constant(values)]
        )[0]

    def node_many(
        self, op: str, inputs: list[str], num_outputs: int, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; returns their names."""
        key = (op, *inputs, num_outputs, domain, *sorted(attributes.items()))
        return self._once(
            key, lambda: super(Trace, self).node_many(op, inputs, num_outputs, domain=domain, **attributes)
        )

    def build(self) -> onnx.ModelProto:
        """The finished, checked model."""
        needed = {value.name for value in self._outputs}
        kept = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        self._nodes = kept[::-1]
        self._constants = [constant for constant in self._constants if constant.name in needed]
        return super().build()

    def _store(self, tensor: Tensor) -> str:
        values = tensor.detach().cpu().contiguous().numpy()
        if id(tensor) not in self._named:
            return self.constant(values)
        _, name = self._named[id(tensor)]
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def _once(self, key: Any, write: Callable[[], list[str]]) -> list[str]:
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]


class Traced(Tensor):
    """A tensor that a request will bring, or what is computed from one: a name in the graph, a type and dimensions."""

    graph: Trace
    graph_name: str
    dims: tuple[Dim, ...]
    _kind: torch.dtype

    @staticmethod
    def __new__(cls: type[Traced], trace: Trace, name: str, kind: torch.dtype, dims: Sequence[Dim]) -> Traced:
        """`kind` is the type of its elements."""
        made: Traced = Tensor._make_subclass(cls, torch.empty(0))
        made.graph, made.graph_name, made._kind, made.dims = trace, name, kind, tuple(dims)
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Traced({self.graph_name}, {self._kind}, {self.dims})"

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Type of its elements."""
        return self._kind

    @property
    def shape(self) -> tuple[int | Length, ...]:  # type: ignore[override]
        """Its lengths: integers, or what stands for them."""
        return tuple(
            dim if isinstance(dim, int) else Length(self.graph, dim, self.graph.node("Shape", [self.graph_name], start=axis, end=axis + 1))
            for axis, dim in enumerate(self.dims)
        )  # fmt: skip

    # These two are given lengths, which torch's own would refuse before it asks for nodes.
    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in other dimensions."""
        return self.graph.functions[Tensor.reshape](self.graph, self, *shape)  # type: ignore[no-any-return]

    def expand(self, *shape: Any) -> Tensor:  # type: ignore[override]
        """The same along dimensions of one."""
        return self.graph.functions[Tensor.expand](self.graph, self, *shape)  # type: ignore[no-any-return]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Write the nodes of a torch function. Raises NotImplementedError where it has none."""
        given = kwargs or {}
        trace = next(_traces([*args, *given.values()]))
        writer = trace.functions.get(func)
        if writer is None:
            raise NotImplementedError(
                f"{torch.overrides.resolve_name(func) or func} is asked for on the way into an ONNX graph, and has no nodes "
                "there. Say them in endcap.training.torch_nodes, with a test, or compute it from what has."
            )
        return writer(trace, *args, **given)


def dims_of(tensor: Tensor) -> tuple[Dim, ...]:
    """A tensor's dimensions, traced or not."""
    return tensor.dims if isinstance(tensor, Traced) else tuple(tensor.shape)


def _traces(values: Iterable[Any]) -> Iterator[Trace]:
    for value in values:
        if isinstance(value, Traced):
            yield value.graph
        elif isinstance(value, list | tuple):
            yield from _traces(value)
