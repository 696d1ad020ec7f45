"""The Open Inference Protocol's gRPC messages in, its answers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from endcap import __version__
from endcap.serving.errors import RequestError
from endcap.serving.grpc_calls import Call, Desk, Method
from endcap.serving.inference import (
    EXTENSIONS,
    SERVER,
    checked,
    datatype_of,
    describe_model,
    number_of,
    raw_of,
    timeout_of,
    values_of_list,
    values_of_raw,
)
from endcap.serving.protos import inference_pb2 as inference
from endcap.serving.tensors import PRODUCT_IDS, Values, outputs_of, place_of, rectangle_of
from endcap.serving.wire import parse

_SERVICE: Final = "/inference.GRPCInferenceService/"
_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class InferenceService:
    """What is answered to the protocol's clients."""

    def __init__(self, desk: Desk) -> None:
        """Take what calls are answered with."""
        self._desk = desk

    @property
    def methods(self) -> dict[str, Method]:
        """Each method by its path."""
        return {
            f"{_SERVICE}ServerLive": Method(self._live, None, "grpc_live"),
            f"{_SERVICE}ServerReady": Method(self._ready, None, "grpc_ready"),
            f"{_SERVICE}ModelReady": Method(self._model_ready, "read", "grpc_model_ready"),
            f"{_SERVICE}ServerMetadata": Method(self._describe_server, "read", "grpc_server"),
            f"{_SERVICE}ModelMetadata": Method(self._describe_model, "read", "grpc_model"),
            f"{_SERVICE}ModelInfer": Method(self._infer, "predict", "grpc_infer"),
        }

    async def _live(self, _raw: bytes, _call: Call) -> bytes:
        return inference.ServerLiveResponse(live=True).SerializeToString()

    async def _ready(self, _raw: bytes, _call: Call) -> bytes:
        return inference.ServerReadyResponse(ready=not self._desk.is_draining()).SerializeToString()

    async def _model_ready(self, raw: bytes, call: Call) -> bytes:
        request = parse(inference.ModelReadyRequest, raw)
        call.check_model(request.name)
        try:
            self._desk.models.find(request.name, version=number_of(request.version))
            is_ready = not self._desk.is_draining()
        except RequestError:
            is_ready = False
        return inference.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def _describe_server(self, _raw: bytes, _call: Call) -> bytes:
        return inference.ServerMetadataResponse(
            name=SERVER, version=__version__, extensions=EXTENSIONS
        ).SerializeToString()

    async def _describe_model(self, raw: bytes, call: Call) -> bytes:
        request = parse(inference.ModelMetadataRequest, raw)
        call.check_model(request.name)
        version = self._desk.models.find(request.name, version=number_of(request.version))
        described = describe_model(self._desk.models.model(request.name), version)
        return inference.ModelMetadataResponse(**described).SerializeToString()

    async def _infer(self, raw: bytes, call: Call) -> bytes:
        request = parse(inference.ModelInferRequest, raw)
        call.check_model(request.model_name)
        version = self._desk.models.find(request.model_name, version=number_of(request.model_version))
        parameters = _parameters_of(request.parameters)
        names = outputs_of([output.name for output in request.outputs], "outputs")
        predict, item_id_type = checked(_values_of(request), parameters, version.in_service.predictor.decoder)
        arrays = await call.submit(version, predict, timeout_of(parameters, call.timeout_seconds))
        rectangle = rectangle_of(arrays, item_id_type)
        response = inference.ModelInferResponse(
            model_name=request.model_name, model_version=str(version.number), id=request.id
        )
        for name in names:
            output = response.outputs.add(name=name, datatype=datatype_of(name, item_id_type), shape=rectangle.shape)
            # An answer takes the request's form.
            if request.raw_input_contents:
                response.raw_output_contents.append(raw_of(name, rectangle, item_id_type))
            elif name != PRODUCT_IDS:
                output.contents.fp32_contents.extend(rectangle.scores.ravel().tolist())
            elif item_id_type == "STRING":
                output.contents.bytes_contents.extend([item_id.encode() for item_id in rectangle.ids])
            else:
                output.contents.int64_contents.extend(rectangle.ids)
        return response.SerializeToString()


def _values_of(request: inference.ModelInferRequest) -> dict[str, Values]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            400, f"raw_input_contents: expected {len(request.inputs)}, one for each input; found {len(raw)}."
        )
    given: dict[str, Values] = {}
    for number, one in enumerate(request.inputs):
        place = place_of(one.name)
        if one.name in given:
            raise RequestError(400, f"{place}: expected each input once; found it twice.")
        if raw:
            if one.HasField("contents"):
                raise RequestError(400, f"{place}: expected contents in raw_input_contents alone; found both.")
            given[one.name] = values_of_raw(one.datatype, list(one.shape), raw[number], place)
        else:
            values = getattr(one.contents, _CONTENTS[one.datatype]) if one.datatype in _CONTENTS else []
            given[one.name] = values_of_list(one.datatype, list(one.shape), values, place)
    return given


def _parameters_of(given: Mapping[str, inference.InferParameter]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found
