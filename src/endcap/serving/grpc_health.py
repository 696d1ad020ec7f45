"""gRPC's health check in, whether the server takes predictions out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import grpc

from endcap.serving.protos import health_pb2 as health

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]

# Watches cost a coroutine each, and nobody asks for a token.
_MAX_WATCHES: Final = 64
_POLL_SECONDS: Final = 0.1
_SERVICE: Final = "/grpc.health.v1.Health/"


class Health(grpc.GenericRpcHandler):
    """Answered to whoever asks."""

    def __init__(self, is_draining: Callable[[], bool], services: Collection[str]) -> None:
        """Take the names of the services, beside "", the server as a whole."""
        self._is_draining = is_draining
        self._services = {"", "grpc.health.v1.Health", *services}
        self._num_watches = 0
        self.is_stopping = False
        """Whether watches are to end."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What answers a path."""
        if handler_call_details.method == f"{_SERVICE}Check":
            return grpc.unary_unary_rpc_method_handler(self._check, health.HealthCheckRequest.FromString)
        if handler_call_details.method == f"{_SERVICE}Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch, health.HealthCheckRequest.FromString)
        return None

    def _status(self) -> health.HealthCheckResponse.ServingStatus:
        kinds = health.HealthCheckResponse
        return kinds.NOT_SERVING if self._is_draining() else kinds.SERVING

    async def _check(self, request: health.HealthCheckRequest, context: Context) -> bytes:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return health.HealthCheckResponse(status=self._status()).SerializeToString()

    async def _watch(self, request: health.HealthCheckRequest, context: Context) -> AsyncIterator[bytes]:
        if self._num_watches >= _MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_WATCHES} watch already. Call Check.")
        self._num_watches += 1
        try:
            told = None
            while not self.is_stopping:
                kinds = health.HealthCheckResponse
                status = self._status() if request.service in self._services else kinds.SERVICE_UNKNOWN
                if status != told:
                    told = status
                    yield health.HealthCheckResponse(status=status).SerializeToString()
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._num_watches -= 1
