"""Values in, one of `n` bins out, by hashes that Python and ONNX Runtime compute alike.

Integers go by modular arithmetic in standard operators. For strings ONNX has no hash; MurmurHash3 is ONNX Runtime's own
(`com.microsoft`), so a graph that hashes strings needs that runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from endcap.features.transforms.graph import MURMUR_DOMAIN, GraphBuilder

IntArray = npt.NDArray[np.int64]

# A prime below 2^31 and an odd multiplier below it: no product leaves int64.
PRIME = 2_147_483_647
_MULTIPLIER = 1_640_531_527
_MASK = 0xFFFF_FFFF


def bin_integers(values: IntArray, num_bins: int) -> IntArray:
    """Bin of each integer."""
    return bins_of(mix(np.zeros_like(values), np.mod(values, PRIME)), num_bins)


def bin_integers_nodes(graph: GraphBuilder, tensor: str, num_bins: int) -> str:
    """The same as nodes."""
    rest = graph.node("Mod", [tensor, graph.constant_int64([PRIME])])
    return bins_of_nodes(graph, mix_nodes(graph, None, rest), num_bins)


def mix(state: IntArray, values: IntArray) -> IntArray:
    """A hash's next state, from 0 to 2^31 - 2; `values` are not negative and below 2^31."""
    mixed: IntArray = (state + values + 1) % PRIME * _MULTIPLIER % PRIME
    return mixed


def mix_nodes(graph: GraphBuilder, state: str | None, tensor: str) -> str:
    """The same as nodes; no state is 0."""
    prime = graph.constant_int64([PRIME])
    added = graph.node("Add", [tensor, graph.constant_int64([1])])
    added = added if state is None else graph.node("Add", [state, added])
    product = graph.node("Mul", [graph.node("Mod", [added, prime]), graph.constant_int64([_MULTIPLIER])])
    return graph.node("Mod", [product, prime])


def bins_of(state: IntArray, num_bins: int) -> IntArray:
    """Bin of each hash. The fifth power gives each number another, and neighbours no pattern that bins would show."""
    square = state * state % PRIME
    return square * square % PRIME * state % PRIME % num_bins


def bins_of_nodes(graph: GraphBuilder, state: str, num_bins: int) -> str:
    """The same as nodes."""
    prime = graph.constant_int64([PRIME])
    square = graph.node("Mod", [graph.node("Mul", [state, state]), prime])
    fourth = graph.node("Mod", [graph.node("Mul", [square, square]), prime])
    fifth = graph.node("Mod", [graph.node("Mul", [fourth, state]), prime])
    return graph.node("Mod", [fifth, graph.constant_int64([num_bins])])


def bin_strings(values: Sequence[str], num_bins: int) -> IntArray:
    """Bin of each string."""
    return np.array([_murmur3(value.encode()) % num_bins for value in values], np.int64)


def bin_strings_nodes(graph: GraphBuilder, tensor: str, num_bins: int) -> str:
    """The same as nodes."""
    return graph.node("Mod", [hash_strings_nodes(graph, tensor), graph.constant_int64([num_bins])])


def hash_string(value: str) -> int:
    """The hash of a string, from 0 to 2^32 - 1."""
    return _murmur3(value.encode())


def hash_strings_nodes(graph: GraphBuilder, tensor: str) -> str:
    """The same as nodes, for a string tensor of any shape."""
    hashed = graph.node("MurmurHash3", [tensor], domain=MURMUR_DOMAIN, positive=1, seed=0)
    return graph.node("Cast", [hashed], to=TensorProto.INT64)


def _murmur3(data: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0 (Appleby, public domain)."""
    state = 0
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        state ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = (_rotated(state, 13) * 5 + 0xE654_6B64) & _MASK
    state ^= _scrambled(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = ((state ^ (state >> 16)) * 0x85EB_CA6B) & _MASK
    state = ((state ^ (state >> 13)) * 0xC2B2_AE35) & _MASK
    return state ^ (state >> 16)


def _scrambled(block: int) -> int:
    return (_rotated((block * 0xCC9E_2D51) & _MASK, 15) * 0x1B87_3593) & _MASK


def _rotated(value: int, places: int) -> int:
    return ((value << places) | (value >> (32 - places))) & _MASK
