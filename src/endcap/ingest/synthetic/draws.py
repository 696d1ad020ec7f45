"""A seed and a purpose in, independent streams of random numbers, ids and draws from weights out."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

WORLD, SESSIONS, LISTS, REFUNDS, BOTS, DELIVERY = range(6)
"""What a stream is for: one purpose's draws never move another's."""

_BYTE_TO_HEX: Final = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint16)


def stream(seed: int, purpose: int, day: int = 0) -> np.random.Generator:
    """Random numbers of one purpose and day, whatever else was drawn before."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose, day))))


def mixed(numbers: npt.NDArray[Any], salt: int) -> npt.NDArray[np.uint64]:
    """Numbers that look random, one to one with those given (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        values = numbers.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) % 2**64)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hex_bytes(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Each value as 16 hexadecimal digits (n, 16)."""
    digits: npt.NDArray[np.uint8] = _BYTE_TO_HEX[values.astype(">u8").view(np.uint8)].view(np.uint8)
    return digits.reshape(-1, 16)


def draw(rng: np.random.Generator, weights: Floats, count: int) -> Ints:
    """Places drawn in proportion to their weights."""
    return rng.permutation(draw_ascending(rng, weights, count))


def draw_ascending(rng: np.random.Generator, weights: Floats, count: int) -> Ints:
    """Places drawn in proportion to their weights, then sorted: marks in order are found several times as fast."""
    cumulative = np.cumsum(weights)
    places = np.searchsorted(cumulative, np.sort(rng.random(count)) * cumulative[-1], side="right")
    drawn: Ints = np.minimum(places, len(weights) - 1)
    return drawn
