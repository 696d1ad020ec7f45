"""The stock clients of TensorFlow Serving and Triton against a real server: what they get is what REST answers.

They run in `.venv-clients`, for what they require clashes with what the project does.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

from endcap.serving.protos import health_pb2, inference_pb2, tensorflow_pb2, tensorflow_serving_pb2
from tests.serving.conftest import Server

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
PYTHON = Path(os.environ.get("ENDCAP_CLIENTS", CLIENTS.parents[1] / ".venv-clients")) / "bin" / "python"
# It comes in files alone, and in none of the packages.
NOT_THERE = {"tensorflow.serving.BatchingParameters"}


def run(script: str, *arguments: object) -> Any:
    assert PYTHON.exists(), f"There is no {PYTHON}: run `make clients`."
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [PYTHON, "-W", "ignore", CLIENTS / script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server(multitask_server: Server) -> Server:
    return multitask_server


def by_rest(server: Server, *instances: dict[str, Any], **body: Any) -> tuple[list[list[str]], list[list[float]]]:
    answer = server.predict({"instances": instances, **body})
    assert answer.status == 200, answer.body
    predictions = answer.body["predictions"]
    return [one["product_ids"] for one in predictions], [one["scores"] for one in predictions]


def check(found: dict[str, Any], expected: tuple[list[list[str]], list[list[float]]]) -> None:
    ids, scores = expected
    shape = [len(ids), len(ids[0])]
    assert found["shape"] == shape
    assert np.reshape(found["product_ids"], shape).tolist() == ids
    np.testing.assert_allclose(np.reshape(found["scores"], shape), scores, rtol=1e-5)
    assert found["version"] == 1


def test_stub_of_tensorflow_serving(server: Server) -> None:
    found = run("tensorflow_client.py", server.grpc_port)
    check(found["recommended"], by_rest(server, {"user_id": "ann"}, {"user_id": "nobody"}, k=3, exclude=["p3"]))
    pairs = {"user_id": "ann", "item_id": ["p1", "p4"]}
    check(found["scored"], by_rest(server, pairs, signature_name="serve_ranking"))
    check(found["by_example"], by_rest(server, {"user_id": "bob", "age": 30}, k=3))
    described = server.ask("GET", "/v1/models/recommender/metadata").body["metadata"]["signature_def"]["signature_def"]
    assert found["signatures"] == {name: sorted(one["inputs"]) for name, one in described.items()}
    assert found["states"] == [[1, "AVAILABLE"]]
    assert found["refused"] == [
        "INVALID_ARGUMENT",
        "inputs[0].user_id: expected a string (STRING); found an integer.",
    ]


def test_tritonclient_over_http_and_grpc(server: Server) -> None:
    found = run("triton_client.py", server.url.removeprefix("http://"), server.grpc_port)
    ids, scores = by_rest(server, {"user_id": "ann"}, {"user_id": "Köln"}, k=3, exclude=["p3"])
    for one in (found["http"], found["grpc"]):
        assert one["product_ids"] == ids
        np.testing.assert_allclose(one["scores"], scores, rtol=1e-5)
        np.testing.assert_allclose(one["only_scores"], scores, rtol=1e-5)
        assert (one["live"], one["ready"], one["model_ready"], one["other_ready"]) == (True, True, True, False)
        assert one["no_ids"]
        assert one["refused"] == "inputs[0].user_id: expected a string (STRING); found an integer."
        assert one["server"] == "endcap"
        assert one["metadata"]["versions"] == ["1"]
        assert one["metadata"]["inputs"][0]["name"] == "user_id"
        assert one["metadata"]["inputs"][0]["datatype"] == "BYTES"
    assert found["http"]["as_json"] == by_rest(server, {"user_id": "ann"})[0][0]


def test_messages_are_those_of_the_stock_packages() -> None:
    ours = {}
    for module in (inference_pb2, tensorflow_pb2, tensorflow_serving_pb2):
        waiting = list(module.DESCRIPTOR.message_types_by_name.values())
        while waiting:
            message = waiting.pop()
            waiting += message.nested_types
            ours[message.full_name] = {
                field.name: [field.number, field.type, field.is_repeated] for field in message.fields
            }
    # Of an error's codes, an enumeration there, one is used: on the wire both are integers.
    ours["tensorflow.serving.StatusProto"]["error_code"][1] = FieldDescriptor.TYPE_ENUM
    assert health_pb2.DESCRIPTOR.package == "grpc.health.v1"
    compared = {name: fields for name, fields in ours.items() if name not in NOT_THERE}
    theirs = run("messages.py", *compared)
    assert len(compared) > 60
    for name, fields in compared.items():
        assert fields == {field: theirs[name].get(field) for field in fields}, name
