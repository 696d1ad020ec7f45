"""A real server asked over gRPC: the answers are REST's, and what is refused names the place and has the right code."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from endcap.serving import door
from endcap.serving.protos import health_pb2 as health
from endcap.serving.protos import tensorflow_pb2 as tf
from endcap.serving.protos import tensorflow_serving_pb2 as serving
from tests.serving.conftest import Server, StartServer
from tests.serving.stubs import (
    MIB,
    MODEL,
    PREDICTION,
    call,
    channel_to,
    free_port,
    predict,
    predict_request,
    rows_of,
)

SECRET = "a-token-of-the-tests"  # noqa: S105


@pytest.fixture(scope="module")
def channel(multitask_server: Server) -> Iterator[grpc.Channel]:
    with channel_to(multitask_server.grpc_port) as opened:
        yield opened


@pytest.fixture
def both(multitask_server: Server, channel: grpc.Channel) -> Server:
    """A server of both signatures that also answers gRPC, which comes after REST."""
    return multitask_server


def code_of(channel: grpc.Channel, inputs: dict[str, Any], **spec: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        predict(channel, inputs, **spec)
    return refused.value.code(), refused.value.details()


def rest(server: Server, instances: list[dict[str, Any]], **body: Any) -> tuple[list[list[Any]], list[list[float]]]:
    answer = server.predict({"instances": instances, **body})
    assert answer.status == 200, answer.body
    predictions = answer.body["predictions"]
    return [one["product_ids"] for one in predictions], [one["scores"] for one in predictions]


@pytest.mark.parametrize(
    ("inputs", "instances", "body"),
    [
        ({"user_id": ["ann"]}, [{"user_id": "ann"}], {}),
        ({"user_id": [["ann"], ["nobody"]], "k": 3}, [{"user_id": "ann"}, {"user_id": "nobody"}], {"k": 3}),
        ({"user_id": ["bob", "cyd"], "city": ["Köln", "東京"], "age": np.float32([30, 41]), "visits": [[1], [9]]},
         [{"user_id": "bob", "city": "Köln", "age": 30, "visits": 1}, {"user_id": "cyd", "city": "東京", "age": 41, "visits": 9}], {}),
        ({"user_id": ["x", "y"], "user_history": [["p7", "p9"], ["p4", ""]], "k": np.int32([5])},
         [{"user_id": "x", "user_history": ["p7", "p9"]}, {"user_id": "y", "user_history": ["p4"]}], {"k": 5}),
        ({"user_id": ["x"], "user_history": ["p7", "p9"]}, [{"user_id": "x", "user_history": ["p7", "p9"]}], {}),
        ({"user_id": ["ann", "bob"], "exclude": ["p3", "p4"], "k": 4}, [{"user_id": "ann"}, {"user_id": "bob"}], {"k": 4, "exclude": ["p3", "p4"]}),
        ({"user_id": ["ann", "bob"], "exclude": [["p3", "p4"], ["p1", ""]], "k": 4},
         [{"user_id": "ann", "exclude": ["p3", "p4"]}, {"user_id": "bob", "exclude": ["p1"]}], {"k": 4}),
        ({"user_id": ["ann"], "only": ["p3", "p8", "p1"], "k": 3}, [{"user_id": "ann"}], {"k": 3, "only": ["p3", "p8", "p1"]}),
        ({"user_id": ["ann"], "filter_price_max": np.float32(5), "filter_price_min": np.float32(2), "k": 2}, [{"user_id": "ann"}],
         {"k": 2, "filter": {"price": {"min": 2, "max": 5}}}),
    ],
)  # fmt: skip
def test_recommendations_are_those_of_rest(
    both: Server, channel: grpc.Channel, inputs: dict[str, Any], instances: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    ids, scores = predict(channel, inputs)
    expected_ids, expected_scores = rest(both, instances, **body)
    assert ids == expected_ids
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_short_rows_are_filled_up(both: Server, channel: grpc.Channel) -> None:
    ids, scores = predict(channel, {"user_id": ["ann", "bob"], "k": [1, 3]})
    expected, expected_scores = rest(both, [{"user_id": "ann", "k": 1}, {"user_id": "bob", "k": 3}])
    assert ids == [[*expected[0], "", ""], expected[1]]
    np.testing.assert_allclose(scores, [[*expected_scores[0], 0, 0], expected_scores[1]], rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "instances"),
    [
        ({"user_id": ["ann", "bob"], "item_id": ["p1", "p2"]}, [{"user_id": "ann", "item_id": "p1"}, {"user_id": "bob", "item_id": "p2"}]),
        ({"user_id": ["ann"], "item_id": [["p1", "p2", "p3"]]}, [{"user_id": "ann", "item_id": ["p1", "p2", "p3"]}]),
        ({"user_id": ["ann", "bob"], "item_id": [["p1", "new"], ["p4", "p5"]], "price": np.float32([[1, 2], [3, 4]])},
         [{"user_id": "ann", "item_id": ["p1", "new"], "price": [1, 2]}, {"user_id": "bob", "item_id": ["p4", "p5"], "price": [3, 4]}]),
    ],
)  # fmt: skip
def test_scores_are_those_of_rest(
    both: Server, channel: grpc.Channel, inputs: dict[str, Any], instances: list[dict[str, Any]]
) -> None:
    ids, scores = predict(channel, inputs, signature_name="serve_ranking")
    expected_ids, expected_scores = rest(both, instances, signature_name="serve_ranking")
    assert ids == expected_ids
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_places_of_padding_are_no_products(both: Server, channel: grpc.Channel) -> None:
    inputs = {"user_id": ["ann", "bob"], "item_id": [["p1", ""], ["p4", "p5"]], "price": np.float32([[7, 0], [3, 4]])}
    ids, scores = predict(channel, inputs, signature_name="serve_ranking")
    instances = [
        {"user_id": "ann", "item_id": ["p1"], "price": [7]},
        {"user_id": "bob", "item_id": ["p4", "p5"], "price": [3, 4]},
    ]
    expected_ids, expected_scores = rest(both, instances, signature_name="serve_ranking")
    assert ids == [["p1", ""], ["p4", "p5"]]
    assert [len(row) for row in expected_ids] == [1, 2]
    np.testing.assert_allclose(scores, [[*expected_scores[0], 0], expected_scores[1]], rtol=1e-5)


def typed(dtype: int, shape: list[int], **values: Any) -> tf.TensorProto:
    made = tf.TensorProto(dtype=dtype, **values)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


@pytest.mark.parametrize(
    "visits",
    [
        typed(tf.DT_INT64, [2], int64_val=[7, 7]),
        typed(tf.DT_INT64, [2], int64_val=[7]),  # the last value stands for the rest
        typed(tf.DT_INT32, [2, 1], int_val=[7, 7]),
        typed(tf.DT_INT8, [2], tensor_content=b"\x07\x07"),
        typed(tf.DT_UINT64, [2], uint64_val=[7, 7]),
        typed(tf.DT_UINT16, [2], tensor_content=struct.pack("<2H", 7, 7)),
    ],
)
def test_integers_of_every_width_are_taken(both: Server, channel: grpc.Channel, visits: tf.TensorProto) -> None:
    ids, _ = predict(channel, {"user_id": ["ann", "bob"], "visits": visits})
    assert ids == rest(both, [{"user_id": "ann", "visits": 7}, {"user_id": "bob", "visits": 7}])[0]


@pytest.mark.parametrize(
    "age", [typed(tf.DT_HALF, [1], half_val=[0x4F80]), typed(tf.DT_DOUBLE, [1], double_val=[30]), np.float64([30])]
)
def test_numbers_of_every_width_are_taken(both: Server, channel: grpc.Channel, age: Any) -> None:
    assert predict(channel, {"user_id": ["bob"], "age": age})[0] == rest(both, [{"user_id": "bob", "age": 30}])[0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"user_id": typed(tf.DT_STRING, [-1], string_val=[b"ann"])}, "inputs.user_id: expected a shape of sizes from 0"),
        ({"user_id": typed(tf.DT_STRING, [2**40, 2**40], string_val=[b"ann"])}, "inputs.user_id: expected at most 1,048,576 values"),
        ({"user_id": typed(tf.DT_STRING, [2**20], string_val=[b"ann"])}, "Expected at most 1,024 instances; found 1,048,576"),
        ({"user_id": typed(tf.DT_STRING, [1, 1, 1, 1], string_val=[b"ann"])}, "inputs.user_id: expected a shape of at most 3 axes"),
        ({"user_id": typed(tf.DT_STRING, [0])}, "Expected at least one instance"),
        ({"user_id": typed(tf.DT_STRING, [1])}, "inputs.user_id: expected 1 values; found none"),
        ({"user_id": typed(tf.DT_STRING, [1], string_val=[b"a", b"b"])}, "inputs.user_id: expected 1 values, as the shape says; found 2"),
        ({"user_id": typed(tf.DT_STRING, [1], string_val=[b"\xff"])}, "inputs.user_id: expected text in UTF-8"),
        ({"user_id": typed(tf.DT_STRING, [1], tensor_content=b"ann")}, "inputs.user_id: expected strings in string_val"),
        ({"user_id": typed(tf.DT_COMPLEX64, [1])}, "inputs.user_id: expected strings, integers, numbers or truths as dtype; found DT_COMPLEX64"),
        ({"user_id": typed(200, [1])}, "inputs.user_id: expected strings, integers, numbers or truths as dtype; found none that is known"),
        ({"user_id": [7]}, "inputs[0].user_id: expected a string (STRING); found an integer"),
        ({"user_id": ["ann"], "visits": typed(tf.DT_INT64, [1], tensor_content=b"1234567")}, "inputs.visits: expected a tensor_content of 8 bytes"),
        ({"user_id": ["ann"], "visits": typed(tf.DT_UINT64, [1], uint64_val=[2**64 - 1])}, "inputs[0].visits: expected an integer of 64 bits"),
        ({"user_id": ["ann"], "age": np.float32([np.nan])}, "inputs[0].age: expected a number within 32-bit float range"),
        ({"user_id": ["ann", "bob"], "age": np.float32([1])}, "inputs.age: expected the shape [2] or [2, 1]; found [1]"),
        ({"user_id": ["ann", "bob"], "user_history": ["p1", "p2"]}, "inputs.user_history: expected the shape [2, length]; found [2]"),
        ({"user_id": ["ann"], "k": np.float32([2])}, "k: expected a whole number from 1 to 3,000; found a number with a fraction"),
        ({"user_id": ["ann"], "ciy": ["Oslo"]}, "inputs[0]: unknown feature 'ciy'. Did you mean city?"),
        ({"city": ["Oslo"]}, "inputs[0]: missing feature user_id"),
        ({"user_id": ["ann"], "filter_in_stock": [5]}, "filter: no filter by 'in_stock' here."),
        ({}, "inputs[0]: missing feature user_id"),
    ],
)  # fmt: skip
def test_refused_input_is_named_with_its_place(channel: grpc.Channel, inputs: dict[str, Any], message: str) -> None:
    """B2, B5."""
    code, details = code_of(channel, inputs)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(message)


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        ({"name": "other"}, grpc.StatusCode.NOT_FOUND, "There is no model 'other' here."),
        ({"version": 7}, grpc.StatusCode.NOT_FOUND, "recommender has no version 7 here; it has: 1."),
        ({"version_label": "champion"}, grpc.StatusCode.NOT_FOUND, "recommender has no label 'champion' here"),
        ({"signature_name": "predict"}, grpc.StatusCode.INVALID_ARGUMENT, "Unknown signature 'predict'."),
    ],
)
def test_what_is_not_here_is_said(
    channel: grpc.Channel, spec: dict[str, Any], code: grpc.StatusCode, message: str
) -> None:
    found, details = code_of(channel, {"user_id": ["ann"]}, **spec)
    assert found is code
    assert details.startswith(message)


def test_answer_says_which_version_and_signature_it_is_of(channel: grpc.Channel) -> None:
    request = predict_request({"user_id": ["ann"], "k": 2}, version=1)
    request.output_filter.append("scores")
    answer = call(channel, f"{PREDICTION}Predict", request, serving.PredictResponse)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("recommender", 1)
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs) == ["scores"]
    assert len(rows_of(answer.outputs["scores"])[0]) == 2


def test_filter_of_outputs_is_checked(channel: grpc.Channel) -> None:
    request = predict_request({"user_id": ["ann"]})
    request.output_filter.append("vector")
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, f"{PREDICTION}Predict", request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "output_filter: there is no output 'vector'; there are: product_ids, scores."


def example(**features: Any) -> bytes:
    made = tf.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        if isinstance(values[0], str):
            feature.bytes_list.value.extend([value.encode() for value in values])
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return made.SerializeToString()


def test_examples_are_instances(both: Server, channel: grpc.Channel) -> None:
    serialized = [
        example(user_id=["bob"], city=["Köln"], age=[30.0], visits=[3], user_history=["p7", "p9"]),
        example(user_id=["ann"], exclude=["p3"]),
    ]
    given = typed(tf.DT_STRING, [2], string_val=serialized)
    ids, scores = predict(channel, {"examples": given, "k": 4})
    instances = [
        {"user_id": "bob", "city": "Köln", "age": 30.0, "visits": 3, "user_history": ["p7", "p9"]},
        {"user_id": "ann", "exclude": ["p3"]},
    ]
    expected_ids, expected_scores = rest(both, instances, k=4)
    assert ids == expected_ids
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_bytes_that_are_no_example_are_refused(channel: grpc.Channel) -> None:
    code, details = code_of(channel, {"examples": typed(tf.DT_STRING, [1], string_val=[b"\x0a\xff"])})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "inputs.examples[0]: expected a serialized tf.Example; found other bytes."


def test_status_and_metadata_are_those_of_rest(both: Server, channel: grpc.Channel) -> None:
    request = serving.GetModelStatusRequest(model_spec=serving.ModelSpec(name="recommender"))
    status = call(channel, f"{MODEL}GetModelStatus", request, serving.GetModelStatusResponse)
    assert [(one.version, one.state, one.status.error_code) for one in status.model_version_status] == [(1, 30, 0)]
    asked = serving.GetModelMetadataRequest(model_spec=request.model_spec, metadata_field=["signature_def"])
    answer = call(channel, f"{PREDICTION}GetModelMetadata", asked, serving.GetModelMetadataResponse)
    definitions = serving.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(definitions)
    described = both.ask("GET", "/v1/models/recommender/metadata").body["metadata"]["signature_def"]
    assert definitions == json_format.Parse(json.dumps(described), serving.SignatureDefMap())
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{PREDICTION}Classify", grpc.StatusCode.UNIMPLEMENTED),
        (f"{PREDICTION}Regress", grpc.StatusCode.UNIMPLEMENTED),
        (f"{PREDICTION}MultiInference", grpc.StatusCode.UNIMPLEMENTED),
        ("/tensorflow.serving.SessionService/SessionRun", grpc.StatusCode.UNIMPLEMENTED),
        (f"{MODEL}HandleReloadConfigRequest", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_what_is_not_answered_has_its_code(channel: grpc.Channel, path: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, path, b"")
    assert refused.value.code() is code


@pytest.mark.parametrize("body", [b"\xff" * 40, b"\x12", b"\x12\x04\x0a\x02\xff\xff"])
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, body: bytes) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, f"{PREDICTION}Predict", body)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_message_over_the_cap_is_refused_also_when_it_is_packed(
    channel: grpc.Channel, compression: grpc.Compression
) -> None:
    """B2."""
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, f"{PREDICTION}Predict", bytes(17 * MIB), compression=compression)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "body",
    [
        b"\x12\x00" * 2**20,  # a million inputs
        predict_request({"user_id": typed(tf.DT_STRING, [0] * 400_000)}).SerializeToString(),
    ],
)
def test_message_that_would_grow_as_it_is_read_is_refused(channel: grpc.Channel, body: bytes) -> None:
    """B2: empty parts take two bytes each on the wire, and a hundred in memory."""
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, f"{PREDICTION}Predict", body)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "The message has too many parts. Send the request in several."


def test_large_message_of_few_parts_is_read(both: Server, channel: grpc.Channel) -> None:
    exclude = [f"p{number:08}" for number in range(40_000)]
    assert predict(channel, {"user_id": ["ann"], "exclude": exclude})[0] == rest(both, [{"user_id": "ann"}])[0]


def test_server_lives_on_after_all_that_was_refused(both: Server, channel: grpc.Channel) -> None:
    assert len(predict(channel, {"user_id": ["ann"], "k": 3})[0][0]) == 3
    assert both.process.poll() is None
    assert "Traceback" not in both.log.read_text()


@pytest.fixture(scope="module")
def guarded(release: Path, start_server: StartServer) -> Iterator[grpc.Channel]:
    """A server that asks for a token."""
    port = free_port()
    start_server(release, auth="token", environment={"ENDCAP_TOKEN": SECRET}, grpc_port=port)
    with channel_to(port) as opened:
        yield opened


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        ("Basic YTpi", grpc.StatusCode.UNAUTHENTICATED),
        ("Bearer another", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
@pytest.mark.parametrize("path", [f"{PREDICTION}Predict", f"{MODEL}GetModelStatus", "/no.such.Service/Method"])
def test_without_the_token_nothing_is_read(
    guarded: grpc.Channel, path: str, authorization: str | None, code: grpc.StatusCode
) -> None:
    """S3, S8: neither a message that can't be parsed nor one that is too large is looked at."""
    metadata = () if authorization is None else (("authorization", authorization),)
    for body in (b"\xff" * 40, bytes(17 * MIB)):
        with pytest.raises(grpc.RpcError) as refused:
            call(guarded, path, body, metadata=metadata)
        assert refused.value.code() is code


def test_with_the_token_it_answers(guarded: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {SECRET}"),)
    request = predict_request({"user_id": ["ann"], "k": 2})
    answer = call(guarded, f"{PREDICTION}Predict", request, serving.PredictResponse, metadata=metadata)
    assert answer.model_spec.version.value == 1


def test_models_are_changed_by_a_token_with_that_scope(
    tmp_path: Path, release: Path, start_server: StartServer
) -> None:
    (tmp_path / "tokens.json").write_text(
        json.dumps(
            {
                "tokens": [
                    {"name": scope, "sha256": hashlib.sha256(scope.encode()).hexdigest(), "scopes": [scope]}
                    for scope in ("predict", "admin")
                ]
            }
        )
    )
    port = free_port()
    server = start_server(
        release,
        auth="token",
        environment={"ENDCAP_TOKEN": ""},
        tokens_file=tmp_path / "tokens.json",
        grpc_port=port,
        model_roots=[str(release.parent)],
        num_workers=2,
    )
    request = serving.ReloadConfigRequest()
    for name in ("recommender", "second"):
        request.config.model_config_list.config.add(name=name, base_path=str(release))
    with channel_to(port) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, f"{MODEL}HandleReloadConfigRequest", request, metadata=(("authorization", "Bearer predict"),))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        admin = (("authorization", "Bearer admin"),)
        path = f"{MODEL}HandleReloadConfigRequest"
        assert call(channel, path, request, serving.ReloadConfigResponse, metadata=admin).status.error_code == 0
        asked = predict_request({"user_id": ["ann"], "k": 2}, name="second")
        predictor = (("authorization", "Bearer predict"),)
        answer = call(channel, f"{PREDICTION}Predict", asked, serving.PredictResponse, metadata=predictor)
        assert answer.model_spec.name == "second"
    # What one process was told, the other one is soon told too.
    body, headers = {"instances": [{"user_id": "ann"}]}, {"authorization": "Bearer predict"}
    end = time.monotonic() + 15
    in_a_row = 0
    while in_a_row < 16:
        assert time.monotonic() < end, "a process doesn't know the second model"
        status = server.ask("POST", "/v1/models/second:predict", body, headers).status
        in_a_row = in_a_row + 1 if status == 200 else 0


def test_health_asks_for_no_token(guarded: grpc.Channel) -> None:
    path = "/grpc.health.v1.Health/Check"
    for name in ("", "tensorflow.serving.PredictionService"):
        request = health.HealthCheckRequest(service=name)
        assert call(guarded, path, request, health.HealthCheckResponse).status == health.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        call(guarded, path, health.HealthCheckRequest(service="other"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_stop_is_told_to_those_who_watch(release: Path, start_server: StartServer) -> None:
    """F7: not ready at once, and gone with code 0."""
    port = free_port()
    server = start_server(release, grpc_port=port)
    with channel_to(port) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health.HealthCheckRequest.SerializeToString,
            health.HealthCheckResponse.FromString,
        )(health.HealthCheckRequest(), timeout=15)
        assert next(watch).status == health.HealthCheckResponse.SERVING
        server.process.terminate()
        assert next(watch).status == health.HealthCheckResponse.NOT_SERVING
        code, details = code_of(channel, {"user_id": ["ann"]})
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details == "The server is shutting down. Send the request again."
    assert server.process.wait(10) == 0


def test_port_that_was_asked_for_and_is_taken_is_an_error(
    both: Server, release: Path, start_server: StartServer
) -> None:
    refused = start_server(release, grpc_port=both.grpc_port)
    assert refused.process.wait(15) == 2
    assert refused.url == (
        f"InputError: Port {both.grpc_port} of 127.0.0.1 is in use by another program. Stop that one, or give another with "
        "--grpc-port (0: no gRPC)."
    )


def test_default_port_that_is_taken_is_a_warning(
    both: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert both.process.poll() is None
    monkeypatch.setattr(door, "DEFAULT_GRPC_PORT", both.grpc_port)
    assert door.free_grpc_port("127.0.0.1", None) == 0
    assert f"There is no gRPC: Port {both.grpc_port} of 127.0.0.1 is in use" in caplog.text
    assert door.free_grpc_port("127.0.0.1", 0) == 0
    free = free_port()
    assert door.free_grpc_port("127.0.0.1", free) == free
