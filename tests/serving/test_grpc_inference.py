"""The Open Inference Protocol over gRPC: the answers are REST's, in the form in which was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from endcap.serving.protos import inference_pb2 as inference
from tests.serving.conftest import Server
from tests.serving.stubs import call, channel_to

SERVICE = "/inference.GRPCInferenceService/"
Input = inference.ModelInferRequest.InferInputTensor
ANN = b"\x03\x00\x00\x00ann"


@pytest.fixture(scope="module")
def server(multitask_server: Server) -> Server:
    return multitask_server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.grpc_port) as opened:
        yield opened


def infer(channel: grpc.Channel, **given: Any) -> inference.ModelInferResponse:
    request = inference.ModelInferRequest(**{"model_name": "recommender", **given})
    answer: inference.ModelInferResponse = call(channel, f"{SERVICE}ModelInfer", request, inference.ModelInferResponse)
    return answer


def by_rest(server: Server, user: str, k: int) -> dict[str, Any]:
    found: dict[str, Any] = server.predict({"instances": [{"user_id": user}], "k": k}).body["predictions"][0]
    return found


def test_contents_are_answered_with_contents(server: Server, channel: grpc.Channel) -> None:
    user = Input(name="user_id", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"ann"]})
    k = Input(name="k", datatype="INT32", shape=[1], contents={"int_contents": [3]})
    answer = infer(channel, inputs=[user, k], id="mine")
    expected = by_rest(server, "ann", 3)
    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "recommender", "1")
    ids, scores = answer.outputs
    assert [one.decode() for one in ids.contents.bytes_contents] == expected["product_ids"]
    assert (ids.name, ids.datatype, list(ids.shape)) == ("product_ids", "BYTES", [1, 3])
    np.testing.assert_allclose(scores.contents.fp32_contents, expected["scores"], rtol=1e-5)
    assert not answer.raw_output_contents


def test_raw_contents_are_answered_with_raw_contents(server: Server, channel: grpc.Channel) -> None:
    user = Input(name="user_id", datatype="BYTES", shape=[1, 1])
    parameters = {"k": inference.InferParameter(int64_param=3)}
    wished = [inference.ModelInferRequest.InferRequestedOutputTensor(name="scores")]
    answer = infer(channel, inputs=[user], raw_input_contents=[ANN], parameters=parameters, outputs=wished)
    assert [one.name for one in answer.outputs] == ["scores"]
    scores = np.frombuffer(answer.raw_output_contents[0], "<f4")
    np.testing.assert_allclose(scores, by_rest(server, "ann", 3)["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[1])], "raw_input_contents": [ANN, ANN]}, "raw_input_contents: expected 1, one for each input; found 2."),
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[-1])], "raw_input_contents": [ANN]}, "inputs.user_id: expected a shape of sizes from 0; found a negative one."),
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[2**62, 4])], "raw_input_contents": [ANN]}, "inputs.user_id: expected at most 1,048,576 values"),
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[1])], "raw_input_contents": [ANN[:-1]]}, "inputs.user_id: a string's length leads out of the content."),
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"x"]})], "raw_input_contents": [ANN]}, "inputs.user_id: expected contents in raw_input_contents alone; found both."),
        ({"inputs": [Input(name="user_id", datatype="BYTES", shape=[1], contents={"int64_contents": [1]})]}, "inputs.user_id: expected 1 values, as the shape says; found 0."),
        ({"inputs": [Input(name="user_id", datatype="TEXT", shape=[1])]}, "inputs.user_id: unknown datatype 'TEXT'"),
        ({}, "inputs[0]: missing feature user_id."),
    ],
)  # fmt: skip
def test_contents_that_do_not_fit_are_refused(channel: grpc.Channel, given: dict[str, Any], message: str) -> None:
    """B2, B5."""
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel, **given)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(message)


def test_server_and_models_are_described(channel: grpc.Channel) -> None:
    def ask(name: str, request: Any, response: Any) -> Any:
        return call(channel, f"{SERVICE}{name}", request, response)

    assert ask("ServerLive", inference.ServerLiveRequest(), inference.ServerLiveResponse).live
    assert ask("ServerReady", inference.ServerReadyRequest(), inference.ServerReadyResponse).ready
    ready = [
        ask("ModelReady", inference.ModelReadyRequest(name=name, version=version), inference.ModelReadyResponse).ready
        for name, version in (("recommender", ""), ("recommender", "1"), ("recommender", "2"), ("other", ""))
    ]
    assert ready == [True, True, False, False]
    about = ask("ServerMetadata", inference.ServerMetadataRequest(), inference.ServerMetadataResponse)
    assert about.name == "endcap"
    model = ask("ModelMetadata", inference.ModelMetadataRequest(name="recommender"), inference.ModelMetadataResponse)
    assert list(model.versions) == ["1"]
    assert [(one.name, one.datatype) for one in model.outputs] == [("product_ids", "BYTES"), ("scores", "FP32")]
