"""HTTP requests in, TensorFlow Serving's REST answers out: the routes, and what each refuses."""

from __future__ import annotations

import asyncio
import re
import time
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Final

import orjson

from endcap.serving.answers import describe_signatures, describe_status
from endcap.serving.batching import Batcher
from endcap.serving.connection import shutting_down
from endcap.serving.errors import RequestError
from endcap.serving.messages import Request, Response
from endcap.serving.metrics import CONTENT_TYPE, Labels, Metrics
from endcap.serving.page import Page
from endcap.serving.settings import ServerSettings
from endcap.serving.versions import Models, Version

if TYPE_CHECKING:
    from endcap.serving.inference_rest import InferenceRoutes
    from endcap.serving.jobs import Answer

_MODEL_PATH: Final = re.compile(r"/v1/models/([^/:]+)(?:/(versions|labels)/([^/:]+))?(/metadata|:[^/]*)?")
METRICS: Final = "/monitoring/prometheus/metrics"
_HEALTH: Final = "/health"
_OPENAPI: Final = "/openapi.json"
# What may be otherwise in a second.
_PASSING: Final = (429, 503)
_V2: Final = "/v2"
_V2_HEALTH: Final = frozenset({b"/v2/health/live", b"/v2/health/ready"})
_PREDICT, _UNKNOWN = "predict", "unknown"


class ServingApp:
    """The models of a server behind HTTP. Errors are `{"error": message}`."""

    def __init__(
        self,
        settings: ServerSettings,
        models: Models,
        batcher: Batcher,
        metrics: Metrics,
        *,
        asks_for_token: bool = False,
    ) -> None:
        """Who may ask, and in which form, is the reception's business; that a token is asked for is only told here."""
        self._asks_for_token = asks_for_token
        self._models = models
        self._batcher = batcher
        self._metrics = metrics
        metrics.gauges["endcap_release_info"] = self._releases
        metrics.gauges["endcap_ready"] = lambda: {(): float(not self.is_draining)}
        metrics.gauges["endcap_queued_instances"] = lambda: {(): float(batcher.num_waiting)}
        self.is_draining = False
        """Whether new predictions are refused."""
        self._page = Page(models, self._find, asks_for_token=asks_for_token) if settings.page else None
        self._health_paths = frozenset({_HEALTH.encode(), (settings.health_route or _HEALTH).encode()})
        self.health_paths = self._health_paths | _V2_HEALTH
        """What is answered to anybody."""

    def model_of(self, path: bytes) -> str | None:
        """The model that a path asks for predictions, where it is one of those that clients use most."""
        model = self._models.by_predict_path.get(path)
        return model.name if model is not None else None

    def answer(self, request: Request) -> Response | asyncio.Future[Answer] | asyncio.Future[Response]:
        """Answer a whole request at once, or as soon as the future is done: by what `conclude` makes of it."""
        route = request.route = _PREDICT
        try:
            model = self._models.by_predict_path.get(request.path)
            if model is not None:
                return self._predict(request, model.find())
            path = request.path.decode(errors="replace")
            if path.startswith(_V2):
                return self._answer_inference(request, path)
            asked = _MODEL_PATH.fullmatch(path)
            if asked is not None and asked[4] == ":predict":
                return self._predict(request, self._find(*asked.groups()[:3]))
            route = _UNKNOWN
            if self._page is not None and (page := self._page.answer(request, path)) is not None:
                route, shown = page
                request.route = route
                if isinstance(shown, Response):
                    self._metrics.count_request(route, shown.status)
                return shown
            route, response = self._answer_page(request.method.decode(), path, asked)
        except RequestError as error:
            response = self._refused(request, error)
        request.route = route
        self._metrics.count_request(route, response.status)
        return response

    def _answer_inference(self, request: Request, path: str) -> Response | asyncio.Future[Answer]:
        request.route = _UNKNOWN
        try:
            found = self._inference.answer(request, path)
        except RequestError as error:
            found = self._refused(request, error)
        if isinstance(found, Response):
            self._metrics.count_request(request.route, found.status)
        return found

    def _refused(self, request: Request, error: RequestError) -> Response:
        if request.counts is not None:
            request.counts.count_status(error.status)
        return refusal(error)

    def conclude(self, request: Request, answer: asyncio.Future[Answer] | asyncio.Future[Response]) -> Response:
        """The response to a prediction, or to a search of the page's, that is done."""
        error = answer.exception()
        counts = request.counts
        if error is None:
            if counts is not None:
                counts.durations["REST"].observe(time.perf_counter() - request.started)
            found = answer.result()
            if request.write is not None:
                response = request.write(found)
            elif isinstance(found, Response):
                response = found
            elif isinstance(found, bytes):
                timing = request.notes.timing if request.notes is not None else None
                response = Response(200, found, headers=timing.headers() if timing is not None else ())
            else:
                raise TypeError(f"An answer over HTTP is {type(found).__name__}.")
        elif isinstance(error, RequestError):
            response = refusal(error)
        else:
            raise error
        if counts is not None:
            counts.count_status(response.status)
        self._metrics.count_request(request.route, response.status)
        return response

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that was not read to its end."""
        route = _PREDICT if request is not None and request.path.endswith(b":predict") else _UNKNOWN
        if request is not None:
            request.route = route
        self._metrics.count_request(route, error.status)
        return refusal(error)

    def _predict(self, request: Request, version: Version) -> asyncio.Future[Answer]:
        if request.method != b"POST":
            raise method_not_allowed(request.method.decode(), "POST")
        if self.is_draining:
            raise shutting_down()
        request.started = time.perf_counter()
        loaded = version.in_service
        request.counts, request.version, request.loaded = loaded.work.counts, version, loaded
        request.asked = loaded.predictor.decoder.decode(request.body)
        if request.notes is not None and request.notes.timing is not None:
            request.asked = request.notes.timing.of(request.asked, request.started, loaded.predictor.buyers)
        return self._batcher.submit(loaded.work, request.asked, request.timeout_seconds, request.peer)

    @cached_property
    def _inference(self) -> InferenceRoutes:
        # Imported for those who ask below /v2 alone.
        from endcap.serving.inference_rest import InferenceRoutes

        return InferenceRoutes(self._models, self._batcher, lambda: self.is_draining)

    def _find(self, name: str, kind: str | None, which: str | None) -> Version:
        if kind == "versions" and which is not None:
            return self._models.find(name, version=_number(name, which))
        return self._models.find(name, label=which)

    def _answer_page(self, method: str, path: str, asked: re.Match[str] | None) -> tuple[str, Response]:
        """Everything but predictions: the route's name and the response."""
        if path.encode() in self._health_paths:
            _demand_get(method)
            return "health", Response(503 if self.is_draining else 200, orjson.dumps(self._describe_health()))
        if path == METRICS:
            _demand_get(method)
            return "metrics", Response(200, self._metrics.exposition(), CONTENT_TYPE)
        if path == _OPENAPI:
            _demand_get(method)
            from endcap.serving.openapi import describe_routes

            document = describe_routes(
                self._models, asks_for_token=self._asks_for_token, has_page=self._page is not None
            )
            return "openapi", Response(200, orjson.dumps(document))
        if asked is None:
            raise self._not_found(path)
        name, kind, which, action = asked.groups()
        model = self._models.model(name)
        if action is None:
            _demand_get(method)
            number = None
            if kind == "versions":
                number = _number(name, which)
            elif kind == "labels":
                number = model.find(label=which).number
            return "status", Response(200, orjson.dumps(describe_status(model, number, is_draining=self.is_draining)))
        if action == "/metadata":
            _demand_get(method)
            version = self._find(name, kind, which)
            described = describe_signatures(version.in_service.predictor, model.name, version.number)
            return "metadata", Response(200, orjson.dumps(described))
        raise self._not_found(path)

    def _describe_health(self) -> dict[str, str]:
        main = self._models.served[0]
        version = main.current
        loaded = version.loaded if version is not None else None
        return {
            "status": "draining" if self.is_draining else "ready",
            "model": main.name,
            "version": str(version.number) if version is not None else "",
            "digest": loaded.predictor.release.digest if loaded is not None else "",
        }

    def _releases(self) -> dict[Labels, float]:
        return {
            (
                model.name,
                str(number),
                loaded.predictor.release.manifest.name,
                loaded.predictor.release.digest,
            ): 1.0
            for model in self._models.served
            for number in model.available
            if (loaded := model.versions[number].loaded) is not None
        }

    def _not_found(self, path: str) -> RequestError:
        model = f"/v1/models/{self._models.served[0].name}"
        routes = [f"{model}:predict", model, f"{model}/metadata", _HEALTH, METRICS, _OPENAPI]
        nearest = get_close_matches(path[:200], routes, n=1, cutoff=0.0)[0]
        return RequestError(
            404, f"There is no route {_shown(path)}. The nearest is {nearest}; all: {', '.join(routes)}."
        )


def _number(name: str, which: str) -> int:
    if not (which.isascii() and which.isdigit()) or len(which) > 18:
        raise RequestError(404, f"{name} has no version {_shown(which)} here: a version is a number.")
    return int(which)


def refusal(error: RequestError) -> Response:
    """What a client is told of an error."""
    headers = error.headers
    if error.status in _PASSING and not any(name == b"retry-after" for name, _ in headers):
        headers += ((b"retry-after", b"1"),)
    return Response(error.status, orjson.dumps({"error": error.message}), headers=headers, closes=error.closes)


def _demand_get(method: str) -> None:
    if method not in ("GET", "HEAD"):
        raise method_not_allowed(method, "GET")


def method_not_allowed(method: str, allowed: str) -> RequestError:
    """A method that the route doesn't have."""
    return RequestError(405, f"{_shown(method)} is not allowed here; use {allowed}.", ((b"allow", allowed.encode()),))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...")
