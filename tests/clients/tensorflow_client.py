"""A gRPC port in, what TensorFlow Serving's stock stub gets there out, as JSON. Run in .venv-clients."""

import json
import sys

import grpc
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

Dim = tensor_shape_pb2.TensorShapeProto.Dim


def tensor(dtype, shape, **values):
    dims = tensor_shape_pb2.TensorShapeProto(dim=[Dim(size=size) for size in shape])
    return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=dims, **values)


def request(**inputs):
    made = predict_pb2.PredictRequest()
    made.model_spec.name = "recommender"
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(value)
    return made


def answer(response):
    ids, scores = response.outputs["product_ids"], response.outputs["scores"]
    return {
        "shape": [dim.size for dim in ids.tensor_shape.dim],
        "product_ids": [value.decode() for value in ids.string_val],
        "scores": list(scores.float_val),
        "version": response.model_spec.version.value,
    }


channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
grpc.channel_ready_future(channel).result(15)
prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
users = tensor(types_pb2.DT_STRING, [2], string_val=[b"ann", b"nobody"])
three = tensor(types_pb2.DT_INT32, [], int_val=[3])
exclude = tensor(types_pb2.DT_STRING, [1], string_val=[b"p3"])
found = {"recommended": answer(prediction.Predict(request(user_id=users, k=three, exclude=exclude), 10))}

pairs = request(
    user_id=tensor(types_pb2.DT_STRING, [1], string_val=[b"ann"]),
    item_id=tensor(types_pb2.DT_STRING, [1, 2], string_val=[b"p1", b"p4"]),
)
pairs.model_spec.signature_name = "serve_ranking"
found["scored"] = answer(prediction.Predict(pairs, 10))

example = example_pb2.Example()
example.features.feature["user_id"].bytes_list.value.append(b"bob")
example.features.feature["age"].float_list.value.append(30)
found["example"] = example.SerializeToString().hex()
examples = tensor(types_pb2.DT_STRING, [1], string_val=[example.SerializeToString()])
found["by_example"] = answer(prediction.Predict(request(examples=examples, k=three), 10))

asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
asked.model_spec.name = "recommender"
signatures = get_model_metadata_pb2.SignatureDefMap()
prediction.GetModelMetadata(asked, 10).metadata["signature_def"].Unpack(signatures)
found["signatures"] = {name: sorted(one.inputs) for name, one in signatures.signature_def.items()}

status = get_model_status_pb2.GetModelStatusRequest()
status.model_spec.name = "recommender"
states = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, 10).model_version_status
found["states"] = [[one.version, get_model_status_pb2.ModelVersionStatus.State.Name(one.state)] for one in states]

try:
    prediction.Predict(request(user_id=tensor(types_pb2.DT_INT64, [1], int64_val=[5])), 10)
except grpc.RpcError as error:
    found["refused"] = [error.code().name, error.details()]
print(json.dumps(found, indent=1, sort_keys=True))
