"""A desk and an address in, a running gRPC server out, until it is told to stop."""

from __future__ import annotations

from typing import Final

import grpc

from endcap.serving.connection import MAX_BODY_BYTES
from endcap.serving.grpc_calls import Desk, Methods
from endcap.serving.grpc_health import Health
from endcap.serving.grpc_inference import InferenceService
from endcap.serving.grpc_predict import Reload, TensorFlowServing

# Calls under way at once; more are refused.
_MAX_CALLS: Final = 1024
_MAX_STREAMS: Final = 256


class GrpcServer:
    """TensorFlow Serving's services, the Open Inference Protocol's, and gRPC's health check, on the running event loop."""

    def __init__(self, desk: Desk, *, is_shared: bool = False, reload: Reload | None = None) -> None:
        """With `is_shared`, other processes of the same server listen on the port too."""
        methods = TensorFlowServing(desk, reload).methods | InferenceService(desk).methods
        self._methods = Methods(desk, methods)
        self._health = Health(desk.is_draining, {path.split("/")[1] for path in methods})
        self._server = grpc.aio.server(
            # In this order: whoever asks for no method that is known is refused by the second, without a token.
            handlers=[self._health, self._methods],
            maximum_concurrent_rpcs=_MAX_CALLS,
            options=[
                ("grpc.so_reuseport", int(is_shared)),
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ],
        )

    @property
    def num_busy(self) -> int:
        """Calls that are being answered."""
        return self._methods.num_busy

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises RuntimeError where the address can't be had."""
        self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Refuse new calls, and wait so long for those under way."""
        self._health.is_stopping = True
        await self._server.stop(seconds)
