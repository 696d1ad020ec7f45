"""Loaded models and bound sockets in, a running HTTP server out, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import uvloop

from endcap.contracts.errors import InputError
from endcap.serving.admin import AdminApp
from endcap.serving.app import ServingApp
from endcap.serving.batching import Batcher
from endcap.serving.clients import Clients
from endcap.serving.connection import Connections
from endcap.serving.control import Control
from endcap.serving.door import BACKLOG, Guard, Listeners
from endcap.serving.errors import RequestError
from endcap.serving.loading import Loader, settle_memory
from endcap.serving.metrics import Metrics
from endcap.serving.reception import Reception
from endcap.serving.settings import ServerSettings
from endcap.serving.sources import Source, check_allowed, source_at
from endcap.serving.versions import Models

if TYPE_CHECKING:
    from types import ModuleType

    from endcap.serving.grpc_server import GrpcServer
    from endcap.serving.logs import Logs
    from endcap.serving.protos.tensorflow_serving_pb2 import ModelServerConfig

logger = logging.getLogger(__name__)

# "Not ready" is answered for this long before the door closes, so that a load balancer sees it.
_LAME_DUCK_SECONDS: Final = 0.3
# Platforms kill 10 s after SIGTERM.
_DRAIN_SECONDS: Final = 8.0
# For what was answered last to be taken by the clients.
_CLOSE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.02
_SWEEP_SECONDS: Final = 1.0
# The first answers over REST go before the import of gRPC, which would hold them up by a third of a second.
_GRPC_PAUSE_SECONDS: Final = 0.5
# How long a thread that has computed something waits for the interpreter: by default 5 ms, which is longer than most answers take.
_SWITCH_SECONDS: Final = 0.0002


class Server:
    """What answers, and what keeps it going."""

    def __init__(
        self, settings: ServerSettings, models: Models, metrics: Metrics, guard: Guard, control: Control
    ) -> None:
        """Take models of which each has a loaded version."""
        self._settings = settings
        self._guard, self._control = guard, control
        self._models = models
        self._batcher = _batcher_of(settings, metrics)
        self._app = ServingApp(settings, models, self._batcher, metrics, asks_for_token=guard.tokens is not None)
        self._clients = Clients(settings.client_requests_per_second, settings.client_concurrent_requests)
        self._logs = _logs_of(settings, metrics)
        self._reception = Reception(self._app, settings, guard, self._clients, metrics, self._logs)
        self._loader = Loader(models, self._batcher, metrics, control)
        self._admin = AdminApp(self._app, models, self._loader, control, guard, self._logs)
        self._metrics = metrics
        self._grpc: GrpcServer | None = None

    def run(self, listeners: Listeners, on_ready: Callable[[], None]) -> None:
        """Answer on the `listeners` until SIGTERM or SIGINT, then finish what is in flight and return."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        settle_memory(collects=False)  # a start leaves little behind, and looking for it takes a tenth of the start
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(listeners, on_ready))

    @property
    def is_loading(self) -> bool:
        """Whether a version was being loaded when the server stopped: its thread may not have seen that yet."""
        return self._loader.is_at_work

    async def reload_configuration(self, config: ModelServerConfig) -> None:
        """Serve what a request lists, from now on. Raises RequestError (400) where it can't be, and changes nothing."""
        from endcap.serving.configuration_files import models_of

        roots = [*self._settings.model_roots, *(one.place for one in self._settings.models if one.place)]

        def allowed(place: str) -> Source:
            check_allowed(place, roots)
            return source_at(place)

        try:
            wished = models_of(config, allowed, "config")
        except InputError as error:
            raise RequestError(400, str(error)) from error
        await self._loader.configure(wished)
        if self._control.model_config_file is not None:  # for the other processes, and the next start
            from google.protobuf import text_format

            from endcap.workspace.atomic import write_text

            write_text(self._control.model_config_file, text_format.MessageToString(config))

    async def _serve(self, listeners: Listeners, on_ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        told_to_stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, told_to_stop.set)
        serving, admin = Connections(self._reception), Connections(self._admin)
        self._metrics.gauges["endcap_connections"] = lambda: {(): float(len(serving.open))}
        self._metrics.gauges["endcap_requests_in_flight"] = lambda: {(): float(serving.num_busy)}
        if self._logs is not None:
            self._logs.start()
        self._batcher.start()
        tasks = [asyncio.create_task(_sweep([serving, admin], self._guard, self._metrics))]
        if self._settings.poll_seconds:
            files = (self._settings.model_config_file, self._control.model_config_file)
            watch = self._loader.watch(self._settings.poll_seconds, [file for file in files if file is not None])
            tasks.append(asyncio.create_task(watch))
        servers = [
            await loop.create_server(connections.connect, sock=listener, backlog=BACKLOG)
            for connections, listener in ((serving, listeners.rest), (admin, listeners.admin))
            if listener is not None
        ]
        try:
            on_ready()
            if self._settings.grpc_port:
                tasks.append(
                    asyncio.create_task(self._open_grpc(listeners.rest.getsockname()[0], self._settings.grpc_port))
                )
            await told_to_stop.wait()
            await _drain(self._app, lambda: serving.num_busy + (self._grpc.num_busy if self._grpc else 0))
        finally:
            self._batcher.stop()
            for server in servers:
                server.close()
            if self._grpc is not None:
                await self._grpc.stop(_CLOSE_SECONDS)
            await _close([serving, admin])
            if self._logs is not None:
                await asyncio.to_thread(self._logs.stop)
            for task in tasks:
                task.cancel()

    async def _open_grpc(self, host: str, port: int) -> None:
        """Answer gRPC too. It is imported once REST answers: that takes as long as half a start, and 20 MB."""
        await asyncio.sleep(_GRPC_PAUSE_SECONDS)
        await asyncio.to_thread(_import_grpc)
        from endcap.serving.grpc_calls import Desk
        from endcap.serving.grpc_server import GrpcServer

        app, settings = self._app, self._settings
        desk = Desk(
            self._models,
            self._batcher,
            self._metrics,
            self._guard.tokens,
            self._clients,
            settings.timeout_seconds,
            lambda: app.is_draining,
            self._logs,
        )
        server = GrpcServer(desk, is_shared=settings.num_workers > 1, reload=self.reload_configuration)
        try:
            await server.start(host, port)
        except RuntimeError:
            logger.error(
                "There is no gRPC: port %d of %s was taken meanwhile. Start again, or give another.", port, host
            )
            return
        self._grpc = server
        logger.info("gRPC is answered on port %d of %s", port, host)
        await asyncio.to_thread(settle_memory)


def _import_grpc() -> ModuleType:
    from endcap.serving import grpc_server

    return grpc_server


def _batcher_of(settings: ServerSettings, metrics: Metrics) -> Batcher:
    if settings.batching is None:
        return Batcher(metrics)
    # Imported for those who set TensorFlow Serving's parameters alone.
    from endcap.serving.timed_batching import TimedBatcher

    return TimedBatcher(metrics, settings=settings.batching)


def _logs_of(settings: ServerSettings, metrics: Metrics) -> Logs | None:
    if settings.access_log is None and settings.request_log_dir is None:
        return None
    # Imported for those who keep logs alone.
    from endcap.serving.logs import open_logs

    return open_logs(settings, metrics)


async def _sweep(doors: Sequence[Connections], guard: Guard, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        for connections in doors:
            connections.sweep(asyncio.get_running_loop().time())
        guard.refresh()
        metrics.publish()


async def _drain(app: ServingApp, num_busy: Callable[[], int]) -> None:
    app.is_draining = True
    await asyncio.sleep(_LAME_DUCK_SECONDS)
    await _until(lambda: not num_busy(), _DRAIN_SECONDS)


async def _close(doors: Sequence[Connections]) -> None:
    """Let what was answered last be taken, then drop the connections."""
    for connections in doors:
        connections.close_idle()
    await _until(lambda: not any(connections.open for connections in doors), _CLOSE_SECONDS)
    for connections in doors:
        connections.abort()


async def _until(is_reached: Callable[[], bool], seconds: float) -> None:
    """Wait until it is, or until the seconds are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not is_reached() and loop.time() < end:
        await asyncio.sleep(_POLL_SECONDS)
