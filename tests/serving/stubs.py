"""TensorFlow Serving's messages as the tests write and read them, over a channel of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from endcap.serving.protos import tensorflow_pb2 as tf
from endcap.serving.protos import tensorflow_serving_pb2 as serving

MIB = 2**20
PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def free_port() -> int:
    """A port that nobody has at present."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def channel_to(port: int) -> Iterator[grpc.Channel]:
    """A channel that is ready."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(15)
        yield channel


def tensor(values: Any, dtype: int | None = None) -> tf.TensorProto:
    """A tensor in TensorFlow's usual form: numbers in tensor_content, strings in string_val."""
    array = np.asarray(values)
    if array.dtype.kind in "US":
        made = tf.TensorProto(dtype=tf.DT_STRING, string_val=[str(value).encode() for value in array.ravel()])
    else:
        kinds = {
            "int64": tf.DT_INT64,
            "int32": tf.DT_INT32,
            "float32": tf.DT_FLOAT,
            "float64": tf.DT_DOUBLE,
            "bool": tf.DT_BOOL,
        }
        made = tf.TensorProto(dtype=dtype or kinds[array.dtype.name], tensor_content=array.tobytes())
    for size in array.shape:
        made.tensor_shape.dim.add(size=size)
    return made


def predict_request(inputs: Mapping[str, Any], name: str = "recommender", **spec: Any) -> serving.PredictRequest:
    """A request with each input as a tensor; the further keys go into its model_spec."""
    request = serving.PredictRequest()
    request.model_spec.name = name
    version = spec.pop("version", None)
    if version is not None:
        request.model_spec.version.value = version
    for key, value in spec.items():
        setattr(request.model_spec, key, value)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(value if isinstance(value, tf.TensorProto) else tensor(value))
    return request


def call(channel: grpc.Channel, path: str, request: Any, response: Any = None, **given: Any) -> Any:
    """One call. `request` may be bytes; `response` is the class of the answer, bytes without one."""
    ask = channel.unary_unary(
        path,
        request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        response_deserializer=response.FromString if response is not None else None,
    )
    return ask(request, **{"timeout": 20, **given})


def predict(channel: grpc.Channel, inputs: Mapping[str, Any], **spec: Any) -> tuple[list[list[Any]], list[list[float]]]:
    """Product ids and scores, a list each row."""
    answer = call(channel, f"{PREDICTION}Predict", predict_request(inputs, **spec), serving.PredictResponse)
    return rows_of(answer.outputs["product_ids"]), rows_of(answer.outputs["scores"])


def rows_of(made: tf.TensorProto) -> list[list[Any]]:
    """The values of a tensor with two axes."""
    num_rows, width = (dim.size for dim in made.tensor_shape.dim)
    values = {
        tf.DT_STRING: [value.decode() for value in made.string_val],
        tf.DT_INT64: list(made.int64_val),
        tf.DT_FLOAT: list(made.float_val),
    }[made.dtype]
    assert len(values) == num_rows * width
    return [values[start : start + width] for start in range(0, len(values), width)] if width else [[]] * num_rows
