"""Messages with bytes changed, cut off and put in: each is answered or refused, and none fails the server."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc
import pytest

from endcap.serving.protos import inference_pb2 as inference
from tests.serving.conftest import Server
from tests.serving.stubs import MODEL, PREDICTION, call, channel_to, predict, predict_request

NUM_MESSAGES = 150
_FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
Input = inference.ModelInferRequest.InferInputTensor
MESSAGES = {
    f"{PREDICTION}Predict": predict_request(
        {"user_id": ["ann", "bob"], "visits": [3, 4], "user_history": [["p1", "p2"], ["p3", ""]], "k": 5}, version=1
    ).SerializeToString(),
    f"{PREDICTION}GetModelMetadata": b"\x0a\x0d\x0a\x0brecommender\x12\x0dsignature_def",
    f"{MODEL}GetModelStatus": b"\x0a\x0d\x0a\x0brecommender",
    "/inference.GRPCInferenceService/ModelInfer": inference.ModelInferRequest(
        model_name="recommender",
        inputs=[
            Input(name="user_id", datatype="BYTES", shape=[1]),
            Input(name="k", datatype="INT64", shape=[1]),
        ],
        raw_input_contents=[b"\x03\x00\x00\x00ann", b"\x05" + b"\x00" * 7],
    ).SerializeToString(),
    "/inference.GRPCInferenceService/ModelMetadata": b"\x0a\x0brecommender",
}


@pytest.fixture(scope="module")
def server(multitask_server: Server) -> Server:
    return multitask_server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.grpc_port) as opened:
        yield opened


def changed(raw: bytes, rng: random.Random) -> bytes:
    """The message with up to four bytes changed, taken out or put in."""
    letters = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters)) if letters else 0
        kind = rng.randrange(4)
        if kind == 0 and letters:
            letters[place] = rng.randrange(256)
        elif kind == 1 and letters:
            letters[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del letters[place : place + rng.randint(1, 6)]
        else:
            letters[place:place] = rng.randbytes(rng.randint(1, 6))
    return bytes(letters)


def code_of(channel: grpc.Channel, path: str, message: bytes) -> grpc.StatusCode:
    try:
        call(channel, path, message)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("path", MESSAGES)
def test_b6_changed_messages_are_answered_or_refused(server: Server, channel: grpc.Channel, path: str) -> None:
    """B5, B6."""
    rng = random.Random(path)  # noqa: S311 (the same messages each time)
    codes = {code_of(channel, path, changed(MESSAGES[path], rng)) for _ in range(NUM_MESSAGES)}
    assert codes <= _FINE
    assert grpc.StatusCode.INVALID_ARGUMENT in codes or "Status" in path or "ModelMetadata" in path
    assert len(predict(channel, {"user_id": ["ann"], "k": 3})[0][0]) == 3
    assert "could not be answered" not in server.log.read_text()
