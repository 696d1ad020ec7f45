"""A file of given word vectors and the words of a text's vocabulary in, the rows that the model's table starts with out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from endcap.contracts.errors import InputError
from endcap.contracts.features import FeatureConfig, Text
from endcap.features.transforms.text import Words

WORD = "word"
VECTOR = "vector"

FloatArray = npt.NDArray[np.float32]


def given_rows(words: Words, spec: Text, key: str) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Indexes of the words that the file has, and their vectors.

    `key` names the column in messages. Raises InputError when the file can't be read, holds something else, or its vectors
    are not as wide as the table.
    """
    table = _read(spec, key)
    index_of = {word: index for index, word in enumerate(words.words, start=1)}
    table = table.filter(pc.is_in(table[WORD], value_set=pa.array(list(index_of), pa.string())))
    lengths = set(pc.list_value_length(table[VECTOR]).unique().to_pylist())
    if lengths - {spec.dim}:
        found = ", ".join(str(length) for length in sorted(lengths, key=str))
        raise InputError(
            f"{key}.dim: {spec.dim}, but the vectors of {spec.encoder} have {found} numbers. Set dim to it."
        )
    indexes = np.array([index_of[word] for word in table[WORD].to_pylist()], np.int64)
    flat = pc.list_flatten(table[VECTOR]).to_numpy().astype(np.float32)
    if not np.isfinite(flat).all():
        raise InputError(f"{key}.encoder: {spec.encoder} has vectors with numbers that are missing or not finite.")
    return indexes, flat.reshape(len(indexes), spec.dim)


def encoders_of(config: FeatureConfig) -> Iterator[tuple[str, Text]]:
    """Texts that are given vectors, each with its key."""
    for side, name, column in config.columns():
        if column.text and column.text.encoder:
            yield f"features.{side}.{name}.text", column.text


def digests_of(config: FeatureConfig) -> dict[str, str]:
    """SHA-256 of each file of vectors by its path. Raises InputError when one can't be read."""
    digests = {}
    for key, spec in encoders_of(config):
        _read(spec, key)
        digests[str(spec.encoder)] = hashlib.sha256(Path(str(spec.encoder)).read_bytes()).hexdigest()
    return digests


def _read(spec: Text, key: str) -> pa.Table:
    path = Path(str(spec.encoder))
    if not path.is_file():
        raise InputError(
            f"{key}.encoder: {path} is no file; expected a Parquet file of the columns {WORD} and {VECTOR}."
        )
    try:
        schema = pq.read_schema(path)
        fits = {WORD, VECTOR} <= set(schema.names) and pa.types.is_string(schema.field(WORD).type)
        kind = schema.field(VECTOR).type if fits else None
        if kind is None or not (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)):
            raise InputError(
                f"{key}.encoder: {path} has {', '.join(f'{f.name} ({f.type})' for f in schema)}; expected {WORD} (string) and "
                f"{VECTOR} (a list of numbers)."
            )
        return pq.read_table(path, columns=[WORD, VECTOR])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{key}.encoder: {path} can't be read as Parquet: {error}.") from error
