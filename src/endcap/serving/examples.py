"""Serialized `tf.Example`s in, instances as JSON would give them out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from endcap.serving.checks import kind_of, shown
from endcap.serving.errors import RequestError
from endcap.serving.instances import PairsReader, QueryReader
from endcap.serving.requests import B64
from endcap.serving.tensors import MAX_VALUES, Values, instances_of, text_of
from endcap.serving.wire import parse


def raw_examples(values: Sequence[Any], place: str) -> list[bytes] | None:
    """The bytes of values that are all `{"b64": …}`, None where none is. Raises RequestError (400)."""
    are_encoded = [isinstance(value, dict) and value.keys() == {B64} for value in values]
    if not any(are_encoded):
        return None
    if not all(are_encoded):
        raise RequestError(400, f'{place}: expected all as {{"{B64}": …}}, or none; found both.')
    return [_decode(value[B64], f"{place}[{i}].{B64}") for i, value in enumerate(values)]


def _decode(value: Any, place: str) -> bytes:
    if not isinstance(value, str):
        raise RequestError(400, f"{place}: expected base64 text; found {kind_of(value)}.")
    try:
        # Clients send the alphabet for URLs too, and leave out the padding.
        text = value.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, f"{place}: expected base64 text; found other letters, or a part of it.") from None


def instances_of_examples(
    serialized: Sequence[bytes], reader: QueryReader | PairsReader, place: str
) -> list[dict[str, Any]]:
    """What each example says, by its features' names: those of an instance, and `filter_category` and the like.

    Raises RequestError (400) for bytes that are no example.
    """
    # Imported for requests that hold examples alone: a server of JSON does without.
    from google.protobuf.message import DecodeError

    from endcap.serving.protos import tensorflow_pb2 as tf

    instances = []
    for i, raw in enumerate(serialized):
        where = f"{place}[{i}]"
        try:
            features = parse(tf.Example, raw).features.feature
        except DecodeError:
            raise RequestError(400, f"{where}: expected a serialized tf.Example; found other bytes.") from None
        instances.append(_instance(features, reader, where))
    return instances


def _instance(features: Mapping[str, Any], reader: QueryReader | PairsReader, where: str) -> dict[str, Any]:
    single = {feature.name for feature in reader.features if not feature.is_list}
    given: dict[str, Values] = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        if kind is None:
            continue
        values = getattr(feature, kind).value
        if len(values) > MAX_VALUES:
            raise RequestError(400, f"{where}.{shown(name)}: expected at most {MAX_VALUES:,} values.")
        if kind == "bytes_list":
            values = [text_of(value, f"{where}.{shown(name)}") for value in values]
        if name in single and len(values) > 1:
            raise RequestError(400, f"{where}.{name}: expected one value; found {len(values):,}.")
        if len(values):  # an empty list is how an example leaves a feature out
            given[name] = Values((1, len(values)), list(values))
    instances, limits = instances_of(given, reader, where, num_rows=1)
    return instances[0] | {name: value for name, value in limits._asdict().items() if value is not None}
