"""A real server asked below /v2: the answers are REST's, in JSON and in the binary form, and refusals name the place."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import Answer, Server, StartServer

INFER = "/v2/models/recommender/infer"


def said(name: str, shape: list[int], datatype: str, data: Any = None, **parameters: Any) -> dict[str, Any]:
    made = {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}
    return made if data is None else {**made, "data": data}


def infer(server: Server, *inputs: dict[str, Any], **body: Any) -> Answer:
    return server.ask("POST", INFER, {"inputs": inputs, **body})


def infer_binary(server: Server, raw: bytes, *inputs: dict[str, Any], **body: Any) -> Answer:
    head = json.dumps({"inputs": inputs, **body}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return server.ask("POST", INFER, head + raw, headers)


def strings(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def outputs(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    return {one["name"]: one for one in answer.body["outputs"]}


def by_rest(server: Server, *instances: Mapping[str, Any], **body: Any) -> tuple[list[Any], list[Any]]:
    predictions = server.predict({"instances": instances, **body}).body["predictions"]
    return [one["product_ids"] for one in predictions], [one["scores"] for one in predictions]


USERS = said("user_id", [2], "BYTES", ["ann", "Köln"])


def test_answer_is_that_of_rest(multitask_server: Server) -> None:
    age = said("age", [2, 1], "FP32", [[30.5], [41]])
    answer = infer(multitask_server, USERS, age, said("k", [1], "INT64", [3]), id="mine")
    ids, scores = by_rest(multitask_server, {"user_id": "ann", "age": 30.5}, {"user_id": "Köln", "age": 41}, k=3)
    found = outputs(answer)
    assert found["product_ids"] == {
        "name": "product_ids", "datatype": "BYTES", "shape": [2, 3], "data": [one for row in ids for one in row]
    }  # fmt: skip
    assert (found["scores"]["datatype"], found["scores"]["shape"]) == ("FP32", [2, 3])
    np.testing.assert_allclose(found["scores"]["data"], np.ravel(scores), rtol=1e-5)
    assert {key: answer.body[key] for key in ("id", "model_name", "model_version")} == {
        "id": "mine", "model_name": "recommender", "model_version": "1"
    }  # fmt: skip


def test_binary_tensors_in_and_out(multitask_server: Server) -> None:
    raw = strings("ann", "Köln")
    answer = infer_binary(
        multitask_server,
        raw + struct.pack("<q", 3),
        said("user_id", [2, 1], "BYTES", binary_data_size=len(raw)),
        said("k", [1], "INT64", binary_data_size=8),
        parameters={"binary_data_output": True},
        outputs=[{"name": "scores"}, {"name": "product_ids", "parameters": {"binary_data": False}}],
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.body[:length])
    ids, scores = by_rest(multitask_server, {"user_id": "ann"}, {"user_id": "Köln"}, k=3)
    assert head["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
        {"name": "product_ids", "datatype": "BYTES", "shape": [2, 3], "data": [one for row in ids for one in row]},
    ]
    np.testing.assert_allclose(np.frombuffer(answer.body[length:], "<f4").reshape(2, 3), scores, rtol=1e-5)


def test_signature_and_k_are_parameters_too(multitask_server: Server) -> None:
    pairs = said("item_id", [1, 2], "BYTES", [["p1", "p4"]])
    answer = infer(
        multitask_server, said("user_id", [1], "BYTES", ["ann"]), pairs, parameters={"signature_name": "serve_ranking"}
    )
    expected = by_rest(multitask_server, {"user_id": "ann", "item_id": ["p1", "p4"]}, signature_name="serve_ranking")
    np.testing.assert_allclose(outputs(answer)["scores"]["data"], expected[1][0], rtol=1e-5)
    two = infer(multitask_server, USERS, parameters={"k": 2})
    assert outputs(two)["product_ids"]["shape"] == [2, 2]


def binary(shape: list[int], size: Any, datatype: str = "BYTES") -> dict[str, Any]:
    return said("user_id", shape, datatype, binary_data_size=size)


@pytest.mark.parametrize(
    ("raw", "given", "message"),
    [
        (strings("ann"), binary([2], 7), "inputs.user_id: expected 2 strings with their lengths; the content is too short."),
        (strings("ann", "bob"), binary([1], 14), "inputs.user_id: expected 1 strings with their lengths; found more behind them."),
        (b"\xff\xff\xff\x7fann", binary([1], 7), "inputs.user_id: a string's length leads out of the content."),
        (strings("ann"), binary([-1], 7), "inputs.user_id: expected a shape of sizes from 0; found a negative one."),
        (strings("ann"), binary([2**62, 2**62], 7), "inputs.user_id: expected at most 1,048,576 values; the shape asks for more."),
        (strings("ann"), binary([1], 8), "inputs.user_id: expected binary_data_size bytes behind the JSON part"),
        (strings("ann"), binary([1], -1), "inputs.user_id: expected binary_data_size bytes behind the JSON part"),
        (strings("ann"), binary([1], "7"), "inputs.user_id: expected binary_data_size bytes behind the JSON part"),
        (strings("ann") + b"x", binary([1], 7), "Behind the JSON part are 1 bytes that belong to no input."),
        (b"1234567", binary([1], 7, "INT64"), "inputs.user_id: expected 8 bytes, as shape and datatype say; found 7."),
        (b"12345678", binary([1], 8, "INT128"), "inputs.user_id: unknown datatype 'INT128'; expected one of BYTES, BOOL"),
        (b"\x01\x00\x00\x00\xff", binary([1], 5), "inputs.user_id: expected text in UTF-8; found other bytes."),
    ],
)  # fmt: skip
def test_binary_content_that_does_not_fit_is_refused(
    multitask_server: Server, raw: bytes, given: dict[str, Any], message: str
) -> None:
    """B2, B5."""
    answer = infer_binary(multitask_server, raw, given)
    assert answer.status == 400
    assert answer.error.startswith(message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The request does not fit: Object missing required field `inputs`."),
        ({"inputs": []}, "inputs[0]: missing feature user_id."),
        ({"inputs": [USERS, USERS]}, "inputs.user_id: expected each input once; found it twice."),
        ({"inputs": [said("user_id", [2], "BYTES", ["ann"])]}, "inputs.user_id: expected 2 values, as the shape says; found 1."),
        ({"inputs": [said("user_id", [1], "BYTES", {"a": 1})]}, "inputs.user_id: expected data, a list of values; found an object."),
        ({"inputs": [said("user_id", [1], "BYTES")]}, "inputs.user_id: expected data, a list of values; found null."),
        ({"inputs": [said("user_id", [2], "BYTES", [["ann"], "bob"])]}, "inputs.user_id: expected lists of one depth; found values beside lists."),
        ({"inputs": [said("user_id", [1], "BYTES", [7])]}, "inputs[0].user_id: expected a string (STRING); found an integer."),
        ({"inputs": [USERS], "outputs": [{"name": "vector"}]}, "outputs: there is no output 'vector'; there are: product_ids, scores."),
        ({"inputs": [USERS], "parameters": {"signature_name": 5}}, "parameters.signature_name: expected a string; found an integer."),
        ({"inputs": [USERS], "parameters": {"k": "5"}}, "k: expected a whole number from 1 to 3,000; found a string."),
        ({"inputs": [USERS], "parameters": {"timeout": -5}}, "parameters.timeout: expected whole microseconds."),
        ({"inputs": [said("ciy", [2], "BYTES", ["a", "b"]), USERS]}, "inputs[0]: unknown feature 'ciy'. Did you mean city?"),
    ],
)  # fmt: skip
def test_request_that_does_not_fit_is_refused(multitask_server: Server, body: dict[str, Any], message: str) -> None:
    """B5."""
    answer = multitask_server.ask("POST", INFER, body)
    assert answer.status == 400
    assert answer.error.startswith(message)


def test_deeply_nested_request_is_refused(multitask_server: Server) -> None:
    """B1."""
    body = b'{"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ' + b"[" * 250_000
    assert multitask_server.ask("POST", INFER, body).status == 400


@pytest.mark.parametrize("length", ["x", "-1", "99999", "99999999999"])
def test_length_of_the_json_part_is_checked(multitask_server: Server, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = multitask_server.ask("POST", INFER, {"inputs": [USERS]}, headers)
    assert answer.status == 400
    assert answer.error.startswith("Inference-Header-Content-Length: expected")


def test_server_and_model_are_described(multitask_server: Server) -> None:
    about = multitask_server.ask("GET", "/v2").body
    assert (about["name"], about["extensions"]) == ("endcap", ["binary_tensor_data"])
    model = multitask_server.ask("GET", "/v2/models/recommender/versions/1").body
    assert (model["name"], model["versions"], model["platform"]) == ("recommender", ["1"], "endcap_release")
    assert model["inputs"][0] == {"name": "user_id", "datatype": "BYTES", "shape": [-1]}
    assert [one["name"] for one in model["outputs"]] == ["product_ids", "scores"]
    assert multitask_server.ask("GET", "/v2/models/recommender/ready").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/recommender/versions/7/ready", 404),
        ("GET", "/v2/models/recommender/versions/x", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/recommender/config", 404),
        ("GET", "/v2/repository/index", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/health/ready", 405),
    ],
)
def test_what_is_not_here_is_said(multitask_server: Server, method: str, path: str, status: int) -> None:
    assert multitask_server.ask(method, path, {"inputs": [USERS]} if method == "POST" else None).status == status


def test_health_alone_needs_no_token(release: Path, start_server: StartServer) -> None:
    """S3, S8."""
    server = start_server(release, auth="token", environment={"ENDCAP_TOKEN": "secret"})
    assert server.ask("GET", "/v2/health/live").body == {"live": True}
    assert server.ask("GET", "/v2/health/ready").body == {"ready": True}
    for method, path in (("GET", "/v2"), ("GET", "/v2/models/recommender/ready"), ("POST", INFER), ("GET", "/v2/x")):
        assert server.ask(method, path, b"{" if method == "POST" else None).status == 401
    allowed = {"Authorization": "Bearer secret"}
    assert server.ask("POST", INFER, {"inputs": [USERS]}, allowed).status == 200
