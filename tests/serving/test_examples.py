"""Serialized `tf.Example`s in base64 in, the answers to the same instances in JSON out."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from endcap.serving.protos import tensorflow_pb2 as tf
from tests.serving.conftest import Server


def example(**features: Any) -> bytes:
    made = tf.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], str):
            feature.bytes_list.value.extend([value.encode() for value in values])
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return made.SerializeToString()


def b64(raw: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(raw).decode()}


FULL = {"user_id": ["bob"], "city": ["Köln"], "age": [30.0], "visits": [3], "user_history": ["p7", "p9"], "k": [4]}
AS_JSON = {"user_id": "bob", "city": "Köln", "age": 30.0, "visits": 3, "user_history": ["p7", "p9"], "k": 4}


def test_examples_are_instances(server: Server) -> None:
    examples = [b64(example(**FULL)), b64(example(user_id=["ann"], age=[], exclude=["p3", "p4"]))]
    expected = server.predict({"instances": [AS_JSON, {"user_id": "ann", "exclude": ["p3", "p4"]}], "k": 5})
    assert expected.status == 200
    assert server.predict({"instances": examples, "k": 5}).body == expected.body
    named = [{"examples": one} for one in examples]
    assert server.predict({"instances": named, "k": 5}).body == expected.body


def test_examples_in_columns(server: Server) -> None:
    expected = server.predict({"inputs": {"user_id": ["ann", "bob"]}})
    examples = [b64(example(user_id=[user])) for user in ("ann", "bob")]
    assert server.predict({"inputs": {"examples": examples}}).body == expected.body


def test_letters_for_urls_and_missing_padding_are_taken(server: Server) -> None:
    raw = example(user_id=["ann??>>~~"])
    text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    assert text != base64.b64encode(raw).decode()
    expected = server.predict({"instances": [{"user_id": "ann??>>~~"}]})
    assert server.predict({"instances": [{"b64": text}]}).body == expected.body


def test_pairs_are_scored(multitask_server: Server) -> None:
    pairs = {"user_id": "ann", "item_id": ["p1", "p4"], "price": [2.5, 3.5]}
    expected = multitask_server.predict({"signature_name": "serve_ranking", "instances": [pairs]})
    assert expected.status == 200
    given = b64(example(user_id=["ann"], item_id=["p1", "p4"], price=[2.5, 3.5]))
    assert multitask_server.predict({"signature_name": "serve_ranking", "instances": [given]}).body == expected.body


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([{"b64": "####"}], "instances[0].b64: expected base64 text; found other letters, or a part of it."),
        ([{"b64": "QUJDR"}], "instances[0].b64: expected base64 text; found other letters, or a part of it."),
        ([{"b64": 5}], "instances[0].b64: expected base64 text; found an integer."),
        ([b64(b"\x0a\xff")], "instances[0]: expected a serialized tf.Example; found other bytes."),
        ([b64(example(user_id=["a"])), {"user_id": "b"}], 'instances: expected all as {"b64": …}, or none; found both.'),
        ([b64(example(user_id=["a", "b"]))], "instances[0].user_id: expected one value; found 2."),
        ([b64(example(user_id=[5]))], "instances[0].user_id: expected a string (STRING); found an integer."),
        ([b64(example(city=["Oslo"]))], "instances[0]: missing feature user_id."),
        ([b64(example(user_id=["a"], ciy=["b"]))], "instances[0]: unknown feature 'ciy'. Did you mean city?"),
        ([b64(b"")], "instances[0]: missing feature user_id."),
        ([{"examples": "a"}], "instances[0]: missing feature user_id."),
    ],
)  # fmt: skip
def test_example_that_does_not_fit_is_refused(server: Server, instances: list[Any], message: str) -> None:
    """B5."""
    answer = server.predict({"instances": instances})
    assert answer.status == 400
    assert answer.error.startswith(message)


def test_example_that_would_grow_as_it_is_read_is_refused(server: Server) -> None:
    """B2."""
    assert server.predict({"instances": [b64(b"\x0a\x04\x0a\x02\x12\x00" * 100_000)]}).status == 413
