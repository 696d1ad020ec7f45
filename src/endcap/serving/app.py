"""HTTP requests in, TensorFlow Serving's REST answers out: the ASGI application and its routes."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from difflib import get_close_matches
from typing import Any, Final

import orjson

from endcap.serving.answers import describe_signatures
from endcap.serving.batching import Batcher
from endcap.serving.errors import RequestError
from endcap.serving.metrics import CONTENT_TYPE, Metrics
from endcap.serving.predictor import Predictor

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_BODY_BYTES: Final = 16 * 2**20
DEFAULT_TIMEOUT_SECONDS: Final = 10.0

_JSON: Final[Header] = (b"content-type", b"application/json")
_MODEL_PATH: Final = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?(/metadata|:[^/]*)?")
_HEALTH, _METRICS = "/health", "/monitoring/prometheus/metrics"
_UNKNOWN: Final = "unknown"


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
        self.num_in_flight = 0
        self._predict_paths = {
            f"/v1/models/{model_name}:predict",
            f"/v1/models/{model_name}/versions/{version}:predict",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.num_in_flight += 1
        route = _UNKNOWN
        headers: tuple[Header, ...]
        try:
            if scope["path"] in self._predict_paths:
                route = "predict"
                body = await self._predict(scope, receive)
                status, headers = 200, (_JSON,)
            else:
                route, status, headers, body = self._answer_page(scope)
        except RequestError as error:
            status, headers = error.status, (_JSON, *error.headers)
            body = orjson.dumps({"error": error.message})
        finally:
            self.num_in_flight -= 1
        self._metrics.count_request(route, status)
        await _send(send, status, headers, body, is_head=scope["method"] == "HEAD")

    async def _predict(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise _method_not_allowed(scope["method"], "POST")
        if self.is_draining:
            raise RequestError(
                503,
                "The server is shutting down. Send the request again.",
                ((b"retry-after", b"1"), (b"connection", b"close")),
            )
        timeout_seconds = self._check_headers(scope["headers"])
        message = await receive()
        raw = message.get("body", b"")
        if message.get("more_body", False):
            raw = await _read_rest(raw, receive)
        started = time.perf_counter()
        body = await self._batcher.submit(self._decode(raw), timeout_seconds)
        self._metrics.duration.observe(time.perf_counter() - started)
        return body

    def _check_headers(self, headers: Iterable[Header]) -> float:
        """Authorize, refuse what is too large before reading it, and find the deadline in seconds."""
        timeout_seconds = DEFAULT_TIMEOUT_SECONDS
        authorization = b""
        num_bytes = 0
        for name, value in headers:
            if name == b"content-length":
                num_bytes = int(value)
            elif name == b"authorization":
                authorization = value
            elif name == b"x-request-timeout-ms":
                timeout_seconds = _timeout_seconds(value)
        if self._token is not None:
            self._authorize(authorization)
        if num_bytes > MAX_BODY_BYTES:
            raise _too_large()
        return timeout_seconds

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

    def _answer_page(self, scope: Scope) -> tuple[str, int, tuple[Header, ...], bytes]:
        """Everything but predictions: the route's name, status, headers and body."""
        path, method = scope["path"], scope["method"]
        if path == _HEALTH:
            _demand_get(method)
            state = "draining" if self.is_draining else "ready"
            body = orjson.dumps({"status": state, "model": self._model_name, "digest": self._predictor.release.digest})
            return "health", 503 if self.is_draining else 200, (_JSON,), body
        self._check_headers(scope["headers"])
        if path == _METRICS:
            _demand_get(method)
            text = self._metrics.exposition(self._batcher.num_waiting, not self.is_draining)
            return "metrics", 200, ((b"content-type", CONTENT_TYPE),), text
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
            return "status", 200, (_JSON,), self._describe_status()
        if action == "/metadata":
            _demand_get(method)
            release = self._predictor.release
            described = describe_signatures(release, self._predictor, self._model_name, self._version)
            return "metadata", 200, (_JSON,), orjson.dumps(described)
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
        nearest = get_close_matches(path, routes, n=1, cutoff=0.0)[0]
        return RequestError(
            404, f"There is no route {_shown(path)}. The nearest is {nearest}; all: {', '.join(routes)}."
        )


async def _read_rest(first: bytes, receive: Receive) -> bytes:
    parts, num_bytes = [first], len(first)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The request ended before its body did.")
        part = message.get("body", b"")
        num_bytes += len(part)
        if num_bytes > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send(send: Send, status: int, headers: tuple[Header, ...], body: bytes, *, is_head: bool) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


def _timeout_seconds(value: bytes) -> float:
    if not value.isdigit() or not 0 < int(value) <= 600_000:
        raise RequestError(400, "x-request-timeout-ms: expected whole milliseconds from 1 to 600,000.")
    return int(value) / 1000


def _demand_get(method: str) -> None:
    if method not in ("GET", "HEAD"):
        raise _method_not_allowed(method, "GET")


def _method_not_allowed(method: str, allowed: str) -> RequestError:
    return RequestError(405, f"{_shown(method)} is not allowed here; use {allowed}.", ((b"allow", allowed.encode()),))


def _too_large() -> RequestError:
    return RequestError(
        413, f"The request's body is over {MAX_BODY_BYTES:,} bytes. Send it in parts.", ((b"connection", b"close"),)
    )


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...")
