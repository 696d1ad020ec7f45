"""Raw gRPC calls in, answered methods out: who may ask, until when, and the status that a refusal becomes."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from endcap.serving.batching import Batcher
from endcap.serving.clients import Client, Clients
from endcap.serving.connection import shutting_down
from endcap.serving.errors import RequestError
from endcap.serving.metrics import Metrics
from endcap.serving.requests import PredictRequest
from endcap.serving.token_file import Scope
from endcap.serving.tokens import Caller, Tokens
from endcap.serving.versions import Models, Version

if TYPE_CHECKING:
    from endcap.serving.answers import Arrays
    from endcap.serving.logs import Logs

    Context = grpc.aio.ServicerContext[bytes, bytes]

logger = logging.getLogger(__name__)

MAX_TIMEOUT_SECONDS: Final = 600.0
# A message goes into a header, of which clients take 8 KiB.
_MAX_MESSAGE_CHARACTERS: Final = 1_500
_AUTHORIZATION: Final = "authorization"

_CODES: Final[Mapping[int, grpc.StatusCode]] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class Desk:
    """What calls are answered with."""

    models: Models
    batcher: Batcher
    metrics: Metrics
    tokens: Tokens | None
    clients: Clients
    timeout_seconds: float
    """The deadline of a call that has none."""
    is_draining: Callable[[], bool]
    """Whether new predictions are refused."""
    logs: Logs | None = None
    """Where it is written down what was recommended."""


@dataclass(frozen=True)
class Call:
    """One call that is answered."""

    desk: Desk
    authorization: bytes
    scope: Scope
    """What the method is."""
    timeout_seconds: float
    peer: str
    """The connection that it came on."""

    def check_model(self, name: str) -> None:
        """Refuse a token that is not for this model."""
        if self.desk.tokens is not None:
            self.desk.tokens.authorize(self.authorization, self.scope, name)

    async def submit(self, version: Version, request: PredictRequest, timeout_seconds: float | None = None) -> Arrays:
        """The answer to a checked request, by the call's deadline or an earlier one; cancelled with the call.

        Raises RequestError.
        """
        if self.desk.is_draining():
            raise shutting_down()
        started = time.perf_counter()
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        loaded = version.in_service
        work = loaded.work
        try:
            answer = await self.desk.batcher.submit(work, request, seconds, self.peer)
        except RequestError as error:
            work.counts.count_status(error.status)
            raise
        work.counts.durations["GRPC"].observe(time.perf_counter() - started)
        work.counts.count_status(200)
        if isinstance(answer, bytes):
            raise TypeError("An answer over gRPC is a JSON body.")
        if self.desk.logs is not None and self.desk.logs.requests is not None:
            self.desk.logs.requests.note(self.desk.logs.next_id().decode(), "", loaded, request, answer)
        return answer


@dataclass(frozen=True)
class Method:
    """What answers one path."""

    answer: Callable[[bytes, Call], Awaitable[bytes]]
    scope: Scope | None
    """What a token must be for; None: whoever asks, with or without a token."""
    route: str
    """What the metrics call it."""


class Methods(grpc.GenericRpcHandler):
    """All methods of a server. A caller without the right token is refused before a message is read."""

    def __init__(self, desk: Desk, methods: Mapping[str, Method]) -> None:
        self._desk = desk
        self._methods = methods
        self.num_busy = 0
        """Calls that are being answered."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What answers a path; gRPC asks once the head of a call is here."""
        method = self._methods.get(handler_call_details.method)
        authorization = _authorization_in(handler_call_details.invocation_metadata or ())
        scope: Scope | None = "read" if method is None else method.scope
        route = "grpc" if method is None else method.route
        caller = None
        if self._desk.tokens is not None and scope is not None:
            try:
                caller = self._desk.tokens.authorize(authorization, scope)
            except RequestError as error:
                return grpc.stream_unary_rpc_method_handler(self._refusing(error, route))
        if method is None:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answering(method, authorization, caller))

    def _refusing(self, error: RequestError, route: str) -> Callable[[Any, Context], Awaitable[bytes]]:
        # As a stream of requests: those of other kinds are read whole before anything is asked.
        async def refuse(_requests: Any, context: Context) -> bytes:
            return await self._abort(context, error, route)

        return refuse

    def _answering(
        self, method: Method, authorization: bytes, caller: Caller | None
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(raw: bytes, context: Context) -> bytes:
            self.num_busy += 1
            client = None
            try:
                if method.scope == "predict":
                    client = self._enter(caller, context)
                call = Call(
                    self._desk, authorization, method.scope or "read", self._seconds_left(context), context.peer()
                )
                response = await method.answer(raw, call)
                self._desk.metrics.count_request(method.route, 200)
                return response
            except RequestError as error:
                return await self._abort(context, error, method.route)
            except DecodeError:
                return await self._abort(context, _undecodable(), method.route)
            except Exception as error:
                _log(error)
                return await self._abort(context, _failed(), method.route)
            finally:
                self.num_busy -= 1
                if client is not None:
                    client.leave()

        return answer

    def _enter(self, caller: Caller | None, context: Context) -> Client | None:
        try:
            return self._desk.clients.enter(caller, _address_of(context.peer()))
        except RequestError:
            self._desk.metrics.count("endcap_refused_total", ("client",))
            raise

    def _seconds_left(self, context: Context) -> float:
        left = cast("float | None", context.time_remaining())
        return self._desk.timeout_seconds if left is None else min(left, MAX_TIMEOUT_SECONDS)

    async def _abort(self, context: Context, error: RequestError, route: str) -> bytes:
        self._desk.metrics.count_request(route, error.status)
        message = error.message
        if len(message) > _MAX_MESSAGE_CHARACTERS:
            message = f"{message[: _MAX_MESSAGE_CHARACTERS - 3]}..."
        trailing = tuple((name.decode(), value.decode()) for name, value in error.headers if name == b"retry-after")
        await context.abort(_CODES.get(error.status, grpc.StatusCode.INTERNAL), message, trailing)
        raise AssertionError  # abort raises


def _authorization_in(metadata: Sequence[tuple[str, str | bytes]]) -> bytes:
    for name, value in metadata:
        if name == _AUTHORIZATION:
            return value if isinstance(value, bytes) else value.encode()
    return b""


def _address_of(peer: str) -> str:
    """The address in gRPC's name of the other end: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _undecodable() -> RequestError:
    return RequestError(400, "The message is not the one of this method: its bytes can't be read.")


def _failed() -> RequestError:
    return RequestError(500, "The server could not answer this call. Its operator finds the place in the log.")


def _log(error: BaseException) -> None:
    """Type and place only: the text may quote the call."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else "unknown"
    logger.error("A call could not be answered: %s in %s", type(error).__name__, place)
