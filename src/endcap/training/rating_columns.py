"""Lines and their products' feature rows in, the plain numbers that boosted trees take out: no vectors, no words.

The trees see what the network sees at the same moment: numbers of both sides as they are, moments as their place in a
period, a short vocabulary's place (most frequent first), and what the history says of the paired product.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts.encoded import Side
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.numeric import to_float32
from endcap.models.rating import OwnLines

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SIDES: Final[tuple[Side, ...]] = ("buyer", "product")
PAIR_COLUMNS: Final = ("count", "age_days", "last_target")
_NUMBERS: Final = ("INT64", "FLOAT64", "NUMERIC", "BOOL")


def column_names(fitted: FittedFeatures) -> list[str]:
    """Names of the columns, in order."""
    return [
        *(f"{side}.{name}" for side in SIDES for name in numbers_of(fitted, side)),
        *(
            f"{side}.{name}.{place}"
            for side in SIDES
            for name, width in encoded_of(fitted, side).items()
            for place in range(width)
        ),
        *PAIR_COLUMNS,
    ]


def raw_columns(
    fitted: FittedFeatures, questions: pa.Table, products: pa.Table, question_nums: IntArray, own: OwnLines
) -> FloatArray:
    """`[num_lines, num_columns]`, missing as NaN: `products` has a row a line, `question_nums` its row in `questions`."""
    columns: list[FloatArray] = []
    sides: tuple[tuple[Side, pa.Table], ...] = (("buyer", questions), ("product", products))
    for side, table in sides:
        found = [to_float32(table[name]).astype(np.float64) for name in numbers_of(fitted, side)]
        columns += [values[question_nums] if side == "buyer" else values for values in found]
    for side, table in sides:
        applied = fitted.apply(side, table)
        for name in encoded_of(fitted, side):
            values = applied[name]
            flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
            parts = np.asarray(flat, np.float64).reshape(len(values), -1)
            columns += list((parts[question_nums] if side == "buyer" else parts).T)
    count = own.count_P.double().numpy()
    age = np.where(count > 0, own.age_days_P.double().numpy(), np.nan)
    return np.stack([*columns, count, age, own.last_P.double().numpy()], axis=1)


def numbers_of(fitted: FittedFeatures, side: Side) -> list[str]:
    """Raw columns of numbers, in order."""
    return [
        name
        for name, column in fitted.definition.side(side).items()
        if column.type in _NUMBERS and not column.is_primary_id
    ]


def encoded_of(fitted: FittedFeatures, side: Side) -> dict[str, int]:
    """Vocabularies of plain columns, and moments, with their widths: what has no numbers of its own."""
    columns = fitted.definition.side(side)
    return {
        column.name: 1 if column.kind == "index" else column.dim
        for column in fitted.columns(side)
        if column.source in columns
        and not columns[column.source].is_primary_id
        and columns[column.source].type not in _NUMBERS
        and column.kind in ("index", "number")
    }
