"""Fitted transforms and the rows they were fitted on in, sentences on what is allowed but hardly meant out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from endcap.contracts.features import Column, Text
from endcap.features.described import missing_share
from endcap.features.fitted import FittedFeatures, Output
from endcap.features.transforms.multi_hot import MultiHot
from endcap.features.transforms.numeric import Bucketize
from endcap.features.transforms.raw import canonical
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import Vocabulary
from endcap.features.word_vectors import given_rows


def remarks_on(fitted: FittedFeatures, buyers: pa.Table, products: pa.Table) -> list[str]:
    """One sentence for each column that says nothing, or less than it was asked for; in the order of the configuration."""
    config = fitted.definition
    found: list[str] = []
    for side, name, column in config.columns():
        table = buyers if side == "buyer" else products
        place = f"features.{side}.{name}"
        if table.num_rows and missing_share(canonical(table[name])) == 1.0:
            found.append(
                f"{place}: missing in all {table.num_rows:,} rows, so it says nothing. Fill it, or leave it out."
            )
            continue
        outputs = [output for output in fitted.outputs if output.side == side and output.column.source == name]
        if column.text and column.text.encoder:
            found += _given(column.text, outputs, f"{place}.text")
        for output in outputs:
            if output.column.kind != "sequence":
                found += [f"{place}.{remark}" for remark in _remarks(output, column)]
        if column.normalize and _is_constant(canonical(table[name])):
            found.append(f"{place}.normalize: the same number in every row, so it says nothing. Leave it out.")
    return found


def _given(spec: Text, outputs: list[Output], key: str) -> Iterator[str]:
    for words in (output.chain[-1] for output in outputs if output.chain):
        if isinstance(words, Words) and words.num_words:
            num_given = len(given_rows(words, spec, key)[0])
            share = f"{num_given:,} of {words.num_words:,} words ({num_given / words.num_words:.0%})"
            yield f"{key}.encoder: {share} have a vector in {spec.encoder}."


def _remarks(output: Output, column: Column) -> Iterator[str]:
    last, kind = output.chain[-1], output.column.name.rpartition(".")[2]
    if isinstance(last, Vocabulary | MultiHot | Words):
        num_values = last.num_words if isinstance(last, Words) else len(last.values)
        spec = column.embedding if kind == "embedding" else column.multi_hot if kind == "multi_hot" else column.text
        hashes = isinstance(last, Vocabulary | Words) and last.num_oov > isinstance(last, Vocabulary)
        if num_values == 0 and not hashes:
            least = spec.min_count if spec else 1
            what = (
                f"word stands in min_count={least} different texts"
                if kind == "text"
                else f"value stands in min_count={least} rows"
            )
            yield f"{kind}: no {what}, so it says nothing. Lower min_count, or leave it out."
        elif num_values == 1 and not column.is_primary_id:
            yield f"{kind}: the vocabulary has one value, so it only says whether a row has it."
    elif isinstance(last, Bucketize) and column.bucketize and len(last.boundaries) < column.bucketize.n - 1:
        num_buckets = len(last.boundaries) + 1
        yield f"bucketize: {num_buckets} buckets instead of n={column.bucketize.n}, since many rows hold the same number."


def _is_constant(values: pa.Array) -> bool:
    there = values.drop_null().unique()
    return len(there) == 1
