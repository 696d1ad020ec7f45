"""HTTP requests in, TensorFlow Serving's REST answers out: the routes, and what each refuses."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from difflib import get_close_matches
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from endcap.serving.answers import describe_signatures
from endcap.serving.batching import Batcher
from endcap.serving.connection import MAX_BODY_BYTES, shutting_down, too_large
from endcap.serving.errors import RequestError
from endcap.serving.messages import Request, Response
from endcap.serving.metrics import CONTENT_TYPE, Metrics
from endcap.serving.predictor import Predictor

DEFAULT_TIMEOUT_SECONDS: Final = 10.0

_MODEL_PATH: Final = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?(/metadata|:[^/]*)?")
_HEALTH, _METRICS = "/health", "/monitoring/prometheus/metrics"
_PREDICT, _UNKNOWN = "predict", "unknown"


class ServingApp:
    """One release behind HTTP. Errors are `{"error": message}`."""

    def __init__(
        self, predictor: Predictor, batcher: Batcher, metrics: Metrics, model_name: str, version: int, token: str | None
    ) -> None:
        """Answer for `model_name` at `version`; with a `token`, everything but health demands it as bearer."""
        self._predictor = predictor
        self._decode = predictor.decoder.decode
        self._batcher = batcher
        self._metrics = metrics
        self._model_name = model_name
        self._version = version
        self._token = None if token is None else token.encode()
        self.is_draining = False
        """Whether new predictions are refused."""
        self._predict_paths = {
            f"/v1/models/{model_name}:predict".encode(),
            f"/v1/models/{model_name}/versions/{version}:predict".encode(),
        }

    def check_head(self, request: Request) -> None:
        """Authorize, refuse what is too large before it is read, and find the deadline."""
        if request.path == _HEALTH.encode():
            return
        request.timeout_seconds = DEFAULT_TIMEOUT_SECONDS
        authorization = b""
        num_bytes = 0
        for name, value in request.headers:
            if name == b"content-length":
                num_bytes = int(value)
            elif name == b"authorization":
                authorization = value
            elif name == b"x-request-timeout-ms":
                request.timeout_seconds = _timeout_seconds(value)
        if self._token is not None:
            self._authorize(authorization)
        if num_bytes > MAX_BODY_BYTES:
            raise too_large()

    def answer(self, request: Request) -> Response | asyncio.Future[bytes]:
        """Answer a whole request at once, or as soon as the future is done: by what `conclude` makes of it."""
        path = request.path
        if path not in self._predict_paths and b"%" in path:
            path = request.path = unquote_to_bytes(path)
        route = _UNKNOWN
        try:
            if path in self._predict_paths:
                route = _PREDICT
                return self._predict(request)
            route, response = self._answer_page(request.method.decode(), path.decode(errors="replace"))
        except RequestError as error:
            response = _refusal(error)
        self._metrics.count_request(route, response.status)
        return response

    def conclude(self, request: Request, answer: asyncio.Future[bytes]) -> Response:
        """The response to a prediction that is done."""
        error = answer.exception()
        if error is None:
            self._metrics.duration.observe(time.perf_counter() - request.started)
            response = Response(200, answer.result())
        elif isinstance(error, RequestError):
            response = _refusal(error)
        else:
            raise error
        self._metrics.count_request(_PREDICT, response.status)
        return response

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that was not read to its end."""
        is_predict = request is not None and request.path in self._predict_paths
        self._metrics.count_request(_PREDICT if is_predict else _UNKNOWN, error.status)
        return _refusal(error)

    def _predict(self, request: Request) -> asyncio.Future[bytes]:
        if request.method != b"POST":
            raise _method_not_allowed(request.method.decode(), "POST")
        if self.is_draining:
            raise shutting_down()
        request.started = time.perf_counter()
        return self._batcher.submit(self._decode(request.body), request.timeout_seconds)

    def _authorize(self, authorization: bytes) -> None:
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not given.strip():
            raise RequestError(
                401,
                "This server asks for a token: send the header Authorization: Bearer TOKEN.",
                ((b"www-authenticate", b"Bearer"),),
            )
        if self._token is None or not hmac.compare_digest(given.strip(), self._token):
            raise RequestError(403, "The token is not the one this server was started with. Ask its operator.")

    def _answer_page(self, method: str, path: str) -> tuple[str, Response]:
        """Everything but predictions: the route's name and the response."""
        if path == _HEALTH:
            _demand_get(method)
            state = "draining" if self.is_draining else "ready"
            body = orjson.dumps({"status": state, "model": self._model_name, "digest": self._predictor.release.digest})
            return "health", Response(503 if self.is_draining else 200, body)
        if path == _METRICS:
            _demand_get(method)
            text = self._metrics.exposition(self._batcher.num_waiting, not self.is_draining)
            return "metrics", Response(200, text, CONTENT_TYPE)
        matched = _MODEL_PATH.fullmatch(path)
        if matched is None:
            raise self._not_found(path)
        name, version, action = matched.groups()
        if name != self._model_name:
            raise RequestError(404, f"There is no model {_shown(name)} here. This server has: {self._model_name}.")
        if version is not None and version != str(self._version):
            raise RequestError(
                404, f"{self._model_name} has no version {_shown(version)} here; it has: {self._version}."
            )
        if action is None:
            _demand_get(method)
            return "status", Response(200, self._describe_status())
        if action == "/metadata":
            _demand_get(method)
            described = describe_signatures(self._predictor, self._model_name, self._version)
            return "metadata", Response(200, orjson.dumps(described))
        raise self._not_found(path)

    def _describe_status(self) -> bytes:
        return orjson.dumps(
            {
                "model_version_status": [
                    {
                        "version": str(self._version),
                        "state": "UNLOADING" if self.is_draining else "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                ]
            }
        )

    def _not_found(self, path: str) -> RequestError:
        model = f"/v1/models/{self._model_name}"
        routes = [f"{model}:predict", model, f"{model}/metadata", _HEALTH, _METRICS]
        nearest = get_close_matches(path[:200], routes, n=1, cutoff=0.0)[0]
        return RequestError(
            404, f"There is no route {_shown(path)}. The nearest is {nearest}; all: {', '.join(routes)}."
        )


def _refusal(error: RequestError) -> Response:
    body = orjson.dumps({"error": error.message})
    return Response(error.status, body, headers=error.headers, closes=error.closes)


def _timeout_seconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 6 or not 0 < int(value) <= 600_000:
        raise RequestError(400, "x-request-timeout-ms: expected whole milliseconds from 1 to 600,000.")
    return int(value) / 1000


def _demand_get(method: str) -> None:
    if method not in ("GET", "HEAD"):
        raise _method_not_allowed(method, "GET")


def _method_not_allowed(method: str, allowed: str) -> RequestError:
    return RequestError(405, f"{_shown(method)} is not allowed here; use {allowed}.", ((b"allow", allowed.encode()),))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...")
