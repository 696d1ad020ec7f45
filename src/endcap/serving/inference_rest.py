"""Requests to /v2 in, the Open Inference Protocol's answers out: JSON, and its extension for binary tensors."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from endcap import __version__
from endcap.contracts.release import DType
from endcap.serving.batching import Batcher
from endcap.serving.checks import kind_of, shown
from endcap.serving.connection import shutting_down
from endcap.serving.errors import RequestError
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
from endcap.serving.messages import Request, Response
from endcap.serving.tensors import MAX_VALUES, PRODUCT_IDS, Rectangle, Values, outputs_of, place_of, rectangle_of
from endcap.serving.versions import Models, Version

if TYPE_CHECKING:
    from endcap.serving.answers import Arrays
    from endcap.serving.jobs import Answer

LIVE: Final = b"/v2/health/live"
READY: Final = b"/v2/health/ready"
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_HEADER_LENGTH: Final = b"inference-header-content-length"
_BINARY: Final = b"application/octet-stream"
_BINARY_OUTPUT: Final = "binary_data_output"
_BINARY_DATA: Final = "binary_data"
_BINARY_SIZE: Final = "binary_data_size"
_ROUTES: Final = "/v2, /v2/health/live, /v2/health/ready, /v2/models/NAME, …/versions/N, …/ready, …/infer"


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Inference(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


class InferenceRoutes:
    """What lies below /v2."""

    def __init__(self, models: Models, batcher: Batcher, is_draining: Callable[[], bool]) -> None:
        """Take the models, what computes, and whether new predictions are refused."""
        self._models, self._batcher, self._is_draining = models, batcher, is_draining
        self._decoder = msgspec.json.Decoder(_Inference)

    def answer(self, request: Request, path: str) -> Response | asyncio.Future[Answer]:
        """The response, or what will be; the request's `route` is set. Raises RequestError."""
        if path in ("/v2", "/v2/"):
            request.route = "v2_server"
            _demand(request, b"GET")
            return _json({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})
        if request.path == LIVE:
            request.route = "v2_health"
            _demand(request, b"GET")
            return _json({"live": True})
        if request.path == READY:
            request.route = "v2_health"
            _demand(request, b"GET")
            is_ready = not self._is_draining()
            return _json({"ready": is_ready}, 200 if is_ready else 503)
        asked = _MODEL.fullmatch(path)
        if asked is None:
            raise RequestError(404, f"There is no route {shown(path)}. Below /v2 there are: {_ROUTES}.")
        name, version, operation = asked.groups()
        request.route = f"v2_{operation or 'model'}"
        if operation == "infer":
            _demand(request, b"POST")
            return self._infer(request, name, version)
        _demand(request, b"GET")
        found = self._models.find(name, version=number_of(version or ""))
        if operation == "ready":
            is_ready = not self._is_draining()
            return _json({"name": name, "ready": is_ready}, 200 if is_ready else 503)
        return _json(describe_model(self._models.model(name), found))

    def _infer(self, request: Request, name: str, version: str | None) -> asyncio.Future[Answer]:
        if self._is_draining():
            raise shutting_down()
        found = self._models.find(name, version=number_of(version or ""))
        request.started = time.perf_counter()
        body, binary = self._parse(request)
        loaded = found.in_service
        request.counts, request.version, request.loaded = loaded.work.counts, found, loaded
        parameters = body.parameters or {}
        given = _values_of(body.inputs, binary)
        predict, item_id_type = checked(given, parameters, loaded.predictor.decoder)
        wished = body.outputs or []
        names = outputs_of([output.name for output in wished], "outputs")
        binary_names = {
            output
            for output in names
            if _is_binary([one for one in wished if one.name == output], bool(parameters.get(_BINARY_OUTPUT)))
        }

        def write(arrays: Arrays) -> Response:
            rectangle = rectangle_of(arrays, item_id_type)
            return _written(name, found, body.id, rectangle, item_id_type, {one: one in binary_names for one in names})

        request.write = write
        request.version, request.loaded, request.asked = found, loaded, predict
        seconds = timeout_of(parameters, request.timeout_seconds)
        return self._batcher.submit(loaded.work, predict, seconds, request.peer)

    def _parse(self, request: Request) -> tuple[_Inference, bytes]:
        """The JSON part of the body, and the tensors behind it."""
        raw, binary = request.body, b""
        length = dict(request.headers).get(_HEADER_LENGTH)
        if length is not None:
            if not length.isdigit() or len(length) > 10 or int(length) > len(raw):
                raise RequestError(
                    400, "Inference-Header-Content-Length: expected the length of the body's JSON part in bytes."
                )
            raw, binary = raw[: int(length)], raw[int(length) :]
        try:
            return self._decoder.decode(raw), binary
        except msgspec.ValidationError as error:
            raise RequestError(
                400,
                f"The request does not fit: {error}. Expected an object with inputs (name, shape, datatype, data) and, "
                "if wished, id, parameters, outputs.",
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(400, f"The request is not valid JSON: {error}.") from None
        except RecursionError:
            raise RequestError(400, "The request is nested too deeply. Expected tensors as lists of values.") from None


def _values_of(inputs: Sequence[_Input], binary: bytes) -> dict[str, Values]:
    given: dict[str, Values] = {}
    position = 0
    for one in inputs:
        place = place_of(one.name)
        if one.name in given:
            raise RequestError(400, f"{place}: expected each input once; found it twice.")
        size = (one.parameters or {}).get(_BINARY_SIZE)
        if size is None:
            given[one.name] = values_of_list(one.datatype, one.shape, _flat(one.data, place), place)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - position:
            raise RequestError(
                400, f"{place}: expected {_BINARY_SIZE} bytes behind the JSON part; there are not so many."
            )
        given[one.name] = values_of_raw(one.datatype, one.shape, binary[position : position + size], place)
        position += size
    if position != len(binary):
        raise RequestError(400, f"Behind the JSON part are {len(binary) - position:,} bytes that belong to no input.")
    return given


def _flat(data: Any, place: str) -> list[Any]:
    """The values of a list, or of lists of lists."""
    if not isinstance(data, list):
        raise RequestError(400, f"{place}: expected data, a list of values; found {kind_of(data)}.")
    flat = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(one, list) for one in flat):
            raise RequestError(400, f"{place}: expected lists of one depth; found values beside lists.")
        flat = [value for one in flat for value in one]
        if len(flat) > MAX_VALUES:
            raise RequestError(400, f"{place}: expected at most {MAX_VALUES:,} values; found more.")
    return flat


def _is_binary(wished: Sequence[_Output], otherwise: bool) -> bool:
    for one in wished:
        said = (one.parameters or {}).get(_BINARY_DATA)
        if said is not None:
            return said is True
    return otherwise


def _written(
    name: str,
    version: Version,
    request_id: str | None,
    rectangle: Rectangle,
    item_id_type: DType,
    names: Mapping[str, bool],
) -> Response:
    """The answer with the outputs `names`, each in binary form or not."""
    outputs = []
    binary = []
    for output, is_binary in names.items():
        described: dict[str, Any] = {
            "name": output,
            "datatype": datatype_of(output, item_id_type),
            "shape": rectangle.shape,
        }
        if is_binary:
            raw = raw_of(output, rectangle, item_id_type)
            described["parameters"] = {_BINARY_SIZE: len(raw)}
            binary.append(raw)
        else:
            described["data"] = rectangle.ids if output == PRODUCT_IDS else rectangle.scores.ravel()
        outputs.append(described)
    said = {"model_name": name, "model_version": str(version.number), "outputs": outputs}
    if request_id is not None:
        said["id"] = request_id
    head = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(200, head)
    return Response(200, b"".join((head, *binary)), _BINARY, ((_HEADER_LENGTH, str(len(head)).encode()),))


def _json(said: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, orjson.dumps(said))


def _demand(request: Request, method: bytes) -> None:
    allowed = (b"GET", b"HEAD") if method == b"GET" else (method,)
    if request.method not in allowed:
        raise RequestError(
            405, f"{shown(request.method.decode())} is not allowed here; use {method.decode()}.", ((b"allow", method),)
        )
