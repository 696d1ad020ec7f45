"""A loaded release and a bound socket in, a running HTTP server out, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
import uvloop

from endcap.serving.answers import PredictWork
from endcap.serving.app import ServingApp
from endcap.serving.batching import Batcher
from endcap.serving.door import BACKLOG
from endcap.serving.metrics import Metrics
from endcap.serving.predictor import Predictor

# "Not ready" is answered for this long before the door closes, so that a load balancer sees it.
_LAME_DUCK_SECONDS: Final = 0.3
# Platforms kill 10 s after SIGTERM.
_DRAIN_SECONDS: Final = 8.0
_POLL_SECONDS: Final = 0.02


def serve(
    predictor: Predictor,
    listener: socket.socket,
    host: str,
    model_name: str,
    token: str | None,
    on_ready: Callable[[str], None] | None,
) -> None:
    """Answer on `listener` until SIGTERM or SIGINT, then finish what is in flight and return."""
    release = predictor.release
    predictor.warm()
    name = release.path.name
    version = int(name) if name.isascii() and name.isdigit() else 1
    metrics = Metrics(release.manifest.name, release.digest, model_name)
    batcher = Batcher(PredictWork(predictor, metrics), metrics)
    app = ServingApp(predictor, batcher, metrics, model_name, version, token)
    _settle_memory()
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, batcher, listener, lambda: on_ready(url) if on_ready is not None else None))


def _settle_memory() -> None:
    """What is loaded stays: the collector need not look at it again, and what loading freed goes back.

    Requests leave next to no cycles behind, so it may look for them more seldom than after every 700 objects.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process by the signal instead of with code 0."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()


async def _serve(app: ServingApp, batcher: Batcher, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, on_ready)
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, told_to_stop.set)
    batcher.start()
    draining = asyncio.create_task(_drain(app, batcher, server, told_to_stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        draining.cancel()
        batcher.stop()


async def _drain(app: ServingApp, batcher: Batcher, server: uvicorn.Server, told_to_stop: asyncio.Event) -> None:
    await told_to_stop.wait()
    app.is_draining = True
    loop = asyncio.get_running_loop()
    started = loop.time()
    while loop.time() < started + _LAME_DUCK_SECONDS or (
        app.num_in_flight > 0 and loop.time() < started + _DRAIN_SECONDS
    ):
        await asyncio.sleep(_POLL_SECONDS)
    batcher.stop()
    server.should_exit = True
