"""Requests in, checked by their heads and unpacked, to what answers them, and its responses out, packed as was asked."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from endcap.serving.clients import Clients, address_of
from endcap.serving.connection import MAX_BODY_BYTES, too_large
from endcap.serving.door import Guard
from endcap.serving.encodings import MIN_BYTES, Packed, accepts_gzip, is_gzip, pack, pack_apart, unpack
from endcap.serving.errors import RequestError
from endcap.serving.messages import Notes, Request, Response
from endcap.serving.metrics import Metrics
from endcap.serving.origins import Origins
from endcap.serving.page import asking_for_password, bearer_of
from endcap.serving.settings import ServerSettings
from endcap.serving.timing import TIMING, Timing
from endcap.serving.token_file import Scope
from endcap.serving.tokens import Tokens

if TYPE_CHECKING:
    from endcap.serving.app import ServingApp
    from endcap.serving.logs import Logs

# Headers that are looked at; a request has others in plenty.
_HEEDED: Final = frozenset(
    {
        b"accept-encoding", b"access-control-request-method", b"authorization", b"content-encoding", b"content-length",
        b"host", b"origin", b"x-endcap-surface", TIMING, b"x-request-id", b"x-request-timeout-ms",
    }
)  # fmt: skip
_OF_MODEL: Final = re.compile(rb"/v[12]/models/([^/:]+)")
_SURFACE: Final = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")


class Reception:
    """Stands between the connections and the application: who may come in, how often, and in which form."""

    def __init__(
        self,
        app: ServingApp,
        settings: ServerSettings,
        guard: Guard,
        clients: Clients,
        metrics: Metrics,
        logs: Logs | None = None,
    ) -> None:
        self._app, self._metrics = app, metrics
        self._timeout_seconds = settings.timeout_seconds
        self._tokens, self._hosts = guard.tokens, guard.hosts
        self._clients = clients
        self._has_page = settings.page
        self._origins = Origins(settings.cors_origins) if settings.cors_origins else None
        self._is_limited = guard.tokens is not None or not clients.is_unlimited
        # Whether a request without notes is nobody's business but the application's.
        self._logs = logs
        self._is_plain = not self._is_limited and logs is None

    def check_head(self, request: Request) -> None:
        """Authorize, refuse what is too large before it is read, and note what the answer is to be like."""
        if b"%" in request.path:
            request.path = unquote_to_bytes(request.path)
        request.timeout_seconds = self._timeout_seconds
        is_health = request.path in self._app.health_paths
        authorization = b""
        num_bytes = 0
        for name, value in request.headers:
            if name not in _HEEDED:
                continue
            if name == b"content-length":
                num_bytes = int(value)
            elif name == b"host":
                if self._hosts is not None and not is_health:
                    self._hosts.check(value)
            elif name == b"authorization":
                authorization = value
            elif name == b"x-request-timeout-ms":
                request.timeout_seconds = _timeout_seconds(value)
            else:
                self._note(request, name, value)
        if is_health or (request.notes is not None and request.notes.is_preflight):
            return  # browsers send no token along when they ask whether they may
        if self._tokens is not None:
            self._authorize(self._tokens, request, authorization)
        if num_bytes > MAX_BODY_BYTES:
            raise too_large()

    def answer(self, request: Request) -> Response | asyncio.Future[Any]:
        """Answer a whole request at once, or as soon as the future is done: by what `conclude` makes of it."""
        notes = request.notes
        if notes is None and self._is_plain:
            return self._app.answer(request)
        if notes is not None and notes.is_preflight:
            return self._answer_preflight(notes.origin, request)
        if self._logs is not None:
            request.started = time.perf_counter()
        client = None
        if self._is_limited and request.method == b"POST":
            try:
                client = self._clients.enter(request.caller, address_of(request.peer))
            except RequestError as error:
                self._metrics.count("endcap_refused_total", ("client",))
                return self._refused(error, request)
        answer = self._answer(request)
        if isinstance(answer, Response):
            if client is not None:
                client.leave()
            return self._finished(request, answer)
        if client is not None:
            answer.add_done_callback(client.leave)
        if self._logs is not None and self._logs.requests is not None:
            answer.add_done_callback(lambda done: self._note_answer(request, done))
        return pack_apart(answer) if notes is not None and notes.accepts_gzip else answer

    def _answer(self, request: Request) -> Response | asyncio.Future[Any]:
        if request.notes is not None and request.notes.is_packed:
            try:
                request.body = unpack(request.body)
            except RequestError as error:
                return self._app.refuse(error, request)
        return self._app.answer(request)

    def _note_answer(self, request: Request, answer: asyncio.Future[Any]) -> None:
        """Into the log of requests: what was shown."""
        if answer.cancelled() or answer.exception() is not None or self._logs is None or self._logs.requests is None:
            return
        if request.loaded is not None and request.asked is not None:
            notes = _notes_of(request)
            notes.request_id = notes.request_id or self._logs.next_id()
            request_id = notes.request_id.decode()
            self._logs.requests.note(request_id, notes.surface, request.loaded, request.asked, answer.result())

    def conclude(self, request: Request, answer: asyncio.Future[Any]) -> Response:
        """The response to a prediction that is done."""
        response = self._app.conclude(request, answer)
        if request.notes is None and self._is_plain:
            return response
        return self._finished(request, response)

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that was not read to its end."""
        response = self._app.refuse(error, request)
        return response if request is None else self._finished(request, response)

    def _answer_preflight(self, origin: bytes, request: Request) -> Response:
        if not origin:
            return self._refused(RequestError(403, "Pages of this site may not ask this server."), request)
        return Response(200, b"", headers=Origins.headers(origin, is_preflight=True))

    def _refused(self, error: RequestError, request: Request) -> Response:
        return self._finished(request, self._app.refuse(error, request))

    def _finished(self, request: Request, response: Response) -> Response:
        """The response with what the request's head asked for, noted in the log."""
        if self._logs is not None and self._logs.access is not None:
            notes = _notes_of(request)
            notes.request_id = notes.request_id or self._logs.next_id()
            response = self._dressed(request, response)
            self._logs.access.note(request, response.status, len(response.body))
            return response
        return self._dressed(request, response)

    def _dressed(self, request: Request, response: Response) -> Response:
        notes = request.notes
        if notes is None:
            return response
        body, headers = response.body, response.headers
        if notes.accepts_gzip and len(body) >= MIN_BYTES and not isinstance(body, Packed):
            body = pack(body)
        if isinstance(body, Packed):
            headers += ((b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))
        if notes.origin:
            headers += Origins.headers(notes.origin)
        if notes.request_id:
            headers += ((b"x-request-id", notes.request_id),)
        return response._replace(body=body, headers=headers)

    def _note(self, request: Request, name: bytes, value: bytes) -> None:
        if name == b"accept-encoding":
            if accepts_gzip(value):
                _notes_of(request).accepts_gzip = True
        elif name == b"content-encoding":
            if is_gzip(value):
                _notes_of(request).is_packed = True
        elif name == TIMING:
            _notes_of(request).timing = Timing()
        elif name == b"x-request-id":
            # What is of another form is not repeated in headers and logs.
            if _REQUEST_ID.fullmatch(value):
                _notes_of(request).request_id = value
        elif name == b"x-endcap-surface":
            if _SURFACE.fullmatch(value):
                _notes_of(request).surface = value.decode()
        elif self._origins is None:
            return
        elif name == b"access-control-request-method":
            _notes_of(request).is_preflight = request.method == b"OPTIONS"
        elif value in self._origins:
            _notes_of(request).origin = value

    def _authorize(self, tokens: Tokens, request: Request, authorization: bytes) -> None:
        # By the method, not by a list of routes: none is left out, and one that isn't there is refused the same.
        scope: Scope = "predict" if request.method == b"POST" else "read"
        model = self._app.model_of(request.path)
        if model is None:
            asked = _OF_MODEL.match(request.path)
            model = asked[1].decode(errors="replace") if asked is not None else None
        if not self._has_page:
            request.caller = tokens.authorize(authorization, scope, model)
            return
        try:
            request.caller = tokens.authorize(bearer_of(request, authorization), scope, model)
        except RequestError as error:
            raise asking_for_password(request, authorization, error) from None


def _notes_of(request: Request) -> Notes:
    if request.notes is None:
        request.notes = Notes()
    return request.notes


def _timeout_seconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 6 or not 0 < int(value) <= 600_000:
        raise RequestError(400, "x-request-timeout-ms: expected whole milliseconds from 1 to 600,000.")
    return int(value) / 1000
