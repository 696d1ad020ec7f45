"""A FeatureConfig and the data's schemas in, every disagreement between them out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import pyarrow as pa

from endcap.contracts.errors import ColumnsError
from endcap.contracts.features import Column, FeatureConfig, Sequence
from endcap.features.transforms import raw

HISTORY_SUFFIXES = ("age_days", "count")
"""Columns beside a sequence's own: `NAME_age_days` and `NAME_count`, lists of as many numbers; see `companions_of`."""


def companions_of(name: str, sequence: Sequence) -> list[str]:
    """Columns beside a sequence's own, in the order of its tensors."""
    suffixes = (*HISTORY_SUFFIXES, *(f"num_{event_type}" for event_type in sequence.counted))
    return [f"{name}_{suffix}" for suffix in suffixes]


def check_columns(config: FeatureConfig, buyers: pa.Schema, products: pa.Schema) -> None:
    """Raise ColumnsError, every problem in one message, when the data lacks what the FeatureConfig names."""
    problems = [
        (f"features.{side}.{name}", problem)
        for side, name, column in config.columns()
        for problem in _problems(name, column, buyers if side == "buyer" else products)
    ]
    if problems:
        raise ColumnsError(problems)


def _problems(name: str, column: Column, schema: pa.Schema) -> Iterator[str]:
    if name not in schema.names:
        close = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]}?" if close else ""
        yield f"the data has no such column; it has {', '.join(sorted(schema.names))}.{hint}"
        return
    found = schema.field(name).type
    is_list = raw.holds_lists(found)
    if is_list and not column.holds_lists:
        yield f"the configuration says {column.type}, the data has {found}. Lists are for multi_hot and sequence."
    elif column.holds_lists and not is_list and not pa.types.is_null(found):
        hint = " Set separator where one text holds several values." if column.multi_hot else ""
        kind = "multi_hot" if column.multi_hot else "sequence"
        yield f"the configuration says {column.type}, and {kind} needs lists of it; the data has {found}.{hint}"
    elif not raw.fits(found.value_type if is_list else found, column.type):
        of = "lists of " if column.holds_lists else ""
        yield f"the configuration says {of}{column.type}, the data has {found}."
    if column.sequence:
        for companion in companions_of(name, column.sequence):
            beside = schema.field(companion).type if companion in schema.names else None
            if beside is None or not raw.holds_lists(beside):
                yield (
                    f"a sequence needs lists of numbers in {companion} beside it; the data has "
                    f"{'no such column' if beside is None else beside}."
                )
