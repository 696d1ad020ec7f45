"""A loaded release and a bound socket in, a running HTTP server out, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
from collections.abc import Callable
from typing import Final

import uvloop

from endcap.serving.answers import PredictWork
from endcap.serving.app import ServingApp
from endcap.serving.batching import Batcher
from endcap.serving.connection import Connections
from endcap.serving.door import BACKLOG
from endcap.serving.metrics import Metrics
from endcap.serving.predictor import Predictor

# "Not ready" is answered for this long before the door closes, so that a load balancer sees it.
_LAME_DUCK_SECONDS: Final = 0.3
# Platforms kill 10 s after SIGTERM.
_DRAIN_SECONDS: Final = 8.0
# For what was answered last to be taken by the clients.
_CLOSE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.02
_SWEEP_SECONDS: Final = 1.0


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


async def _serve(app: ServingApp, batcher: Batcher, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, told_to_stop.set)
    connections = Connections(app)
    batcher.start()
    watch = asyncio.create_task(_watch(connections))
    server = await loop.create_server(connections.connect, sock=listener, backlog=BACKLOG)
    try:
        on_ready()
        await told_to_stop.wait()
        await _drain(app, connections)
    finally:
        batcher.stop()
        server.close()
        connections.close_idle()
        await _until(lambda: not connections.open, _CLOSE_SECONDS)
        connections.abort()
        watch.cancel()


async def _watch(connections: Connections) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        connections.sweep(asyncio.get_running_loop().time())


async def _drain(app: ServingApp, connections: Connections) -> None:
    app.is_draining = True
    await asyncio.sleep(_LAME_DUCK_SECONDS)
    await _until(lambda: not connections.num_busy, _DRAIN_SECONDS)


async def _until(is_reached: Callable[[], bool], seconds: float) -> None:
    """Wait until it is, or until the seconds are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not is_reached() and loop.time() < end:
        await asyncio.sleep(_POLL_SECONDS)
