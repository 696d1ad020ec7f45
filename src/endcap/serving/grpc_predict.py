"""TensorFlow Serving's gRPC messages in, their answers out: PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from endcap.contracts.release import DEFAULT_SIGNATURE
from endcap.serving.answers import describe_signatures, describe_status
from endcap.serving.errors import RequestError
from endcap.serving.examples import instances_of_examples
from endcap.serving.grpc_calls import Call, Desk, Method
from endcap.serving.protos import tensorflow_serving_pb2 as serving
from endcap.serving.requests import EXAMPLES, PredictRequest, RequestDecoder
from endcap.serving.tensor_protos import outputs_as_protos, strings_of, values_of
from endcap.serving.tensors import instances_of, outputs_of, place_of, rectangle_of
from endcap.serving.versions import Version
from endcap.serving.wire import parse

Reload = Callable[[serving.ModelServerConfig], Awaitable[None]]
"""Takes the models that an operator asks for. Raises RequestError."""

_SIGNATURES: Final = "signature_def"
_INPUTS: Final = "inputs"
# google.rpc.Code.UNKNOWN.
_UNKNOWN_ERROR: Final = 2


class TensorFlowServing:
    """What is answered to TensorFlow Serving's stubs."""

    def __init__(self, desk: Desk, reload: Reload | None = None) -> None:
        """Without a `reload` nobody changes the models over gRPC."""
        self._desk = desk
        self._reload = reload

    @property
    def methods(self) -> dict[str, Method]:
        """Each method by its path."""
        prediction, model = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
        refused = Method(self._refuse, "predict", "grpc_refused")
        others = {f"{prediction}{name}": refused for name in ("Classify", "Regress", "MultiInference")}
        return {
            f"{prediction}Predict": Method(self._predict, "predict", "grpc_predict"),
            f"{prediction}GetModelMetadata": Method(self._describe_metadata, "read", "grpc_metadata"),
            f"{model}GetModelStatus": Method(self._describe_status, "read", "grpc_status"),
            f"{model}HandleReloadConfigRequest": Method(self._handle_reload, "admin", "grpc_reload"),
            **others,
        }

    async def _predict(self, raw: bytes, call: Call) -> bytes:
        """Recommendations, or scores of pairs."""
        request = parse(serving.PredictRequest, raw)
        version = self._version_of(request.model_spec, call)
        decoder = version.in_service.predictor.decoder
        names = outputs_of(request.output_filter, "output_filter")
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        dtype = decoder.reader(signature_name).item_id_type
        answer = await call.submit(version, _checked(request, signature_name, decoder))
        response = serving.PredictResponse()
        outputs_as_protos(rectangle_of(answer, dtype), dtype, names, response.outputs.__getitem__)
        self._specify(response.model_spec, request.model_spec, version)
        response.model_spec.signature_name = signature_name
        return response.SerializeToString()

    async def _describe_metadata(self, raw: bytes, call: Call) -> bytes:
        """The signatures of a version."""
        from google.protobuf.json_format import ParseDict

        request = parse(serving.GetModelMetadataRequest, raw)
        if list(request.metadata_field) != [_SIGNATURES]:
            raise RequestError(400, f"metadata_field: expected {_SIGNATURES} alone.")
        version = self._version_of(request.model_spec, call)
        described = describe_signatures(version.in_service.predictor, request.model_spec.name, version.number)
        definitions = ParseDict(described["metadata"][_SIGNATURES], serving.SignatureDefMap())
        response = serving.GetModelMetadataResponse()
        response.metadata[_SIGNATURES].Pack(definitions)
        self._specify(response.model_spec, request.model_spec, version)
        return response.SerializeToString()

    async def _describe_status(self, raw: bytes, call: Call) -> bytes:
        """The state of each version, newest first, or of one."""
        spec = parse(serving.GetModelStatusRequest, raw).model_spec
        call.check_model(spec.name)
        model = self._desk.models.model(spec.name)
        number = None
        if spec.HasField("version"):
            number = spec.version.value
        elif spec.HasField("version_label"):
            number = model.find(label=spec.version_label).number
        described = describe_status(model, number, is_draining=self._desk.is_draining())
        response = serving.GetModelStatusResponse()
        for one in described["model_version_status"]:
            message = one["status"]["error_message"]
            response.model_version_status.add(
                version=int(one["version"]),
                state=one["state"],
                status=serving.StatusProto(error_code=_UNKNOWN_ERROR if message else 0, error_message=message),
            )
        return response.SerializeToString()

    async def _handle_reload(self, raw: bytes, call: Call) -> bytes:
        """Serve the models that a configuration names."""
        if self._reload is None or call.desk.tokens is None:
            raise RequestError(
                403,
                "The models are changed over gRPC with a token that has the scope admin, and this server asks for none. "
                "Use the admin port, or start it with --auth token.",
            )
        await self._reload(parse(serving.ReloadConfigRequest, raw).config)
        return serving.ReloadConfigResponse(status=serving.StatusProto()).SerializeToString()

    async def _refuse(self, _raw: bytes, _call: Call) -> bytes:
        """What a recommender has no answer to."""
        raise RequestError(501, "A release recommends and scores: ask PredictionService/Predict.")

    def _version_of(self, spec: serving.ModelSpec, call: Call) -> Version:
        call.check_model(spec.name)
        number = spec.version.value if spec.HasField("version") else None
        label = spec.version_label if spec.HasField("version_label") else None
        return self._desk.models.find(spec.name, version=number, label=label)

    def _specify(self, spec: serving.ModelSpec, asked: serving.ModelSpec, version: Version) -> None:
        spec.name = asked.name
        spec.version.value = version.number


def _checked(request: serving.PredictRequest, signature_name: str, decoder: RequestDecoder) -> PredictRequest:
    reader = decoder.reader(signature_name)
    if EXAMPLES in request.inputs and not any(tensor.name == EXAMPLES for tensor in reader.client_inputs):
        serialized = strings_of(request.inputs[EXAMPLES], place_of(EXAMPLES))
        others = {
            name: values_of(tensor, place_of(name)) for name, tensor in request.inputs.items() if name != EXAMPLES
        }
        said, limits = instances_of(others, reader, num_rows=len(serialized))
        examples = instances_of_examples(serialized, reader, place_of(EXAMPLES))
        instances = [one | more for one, more in zip(examples, said, strict=True)]
    else:
        given = {name: values_of(tensor, place_of(name)) for name, tensor in request.inputs.items()}
        instances, limits = instances_of(given, reader)
    return decoder.check(signature_name, instances, limits, "arrays", _INPUTS)
