"""The path of a release in, a running HTTP server out, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import uvicorn
import uvloop

from endcap.contracts.errors import InputError
from endcap.releases.bundle import open_release
from endcap.serving.answers import PredictWork
from endcap.serving.app import ServingApp
from endcap.serving.batching import Batcher
from endcap.serving.metrics import Metrics
from endcap.serving.predictor import Predictor

TOKEN_VARIABLE: Final = "ENDCAP_TOKEN"  # noqa: S105 (the variable's name, no secret)
_BACKLOG: Final = 2048
# "Not ready" is answered for this long before the door closes, so that a load balancer sees it.
_LAME_DUCK_SECONDS: Final = 0.3
# Platforms kill 10 s after SIGTERM.
_DRAIN_SECONDS: Final = 8.0
_POLL_SECONDS: Final = 0.02

Auth = Literal["token", "none"]


def run_server(
    release_path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    model_name: str = "recommender",
    auth: Auth | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a release until SIGTERM or SIGINT, then finish what is in flight and return.

    `port` 0 takes a free one. `on_ready` is given the server's URL once it accepts requests. Raises InputError for
    an address, port or auth that can't be used and for a folder that is no release, ArtifactError for a damaged one.
    """
    token = _required_token(host, auth)
    listener = _bind(host, port)
    try:
        release = open_release(release_path)
        predictor = Predictor(release)
        predictor.warm()
        version = int(release_path.name) if release_path.name.isascii() and release_path.name.isdigit() else 1
        metrics = Metrics(release.manifest.name, release.digest, model_name)
        batcher = Batcher(PredictWork(predictor, metrics), metrics)
        app = ServingApp(predictor, batcher, metrics, model_name, version, token)
        _settle_memory()
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(app, batcher, listener, lambda: on_ready(url) if on_ready is not None else None))
    finally:
        listener.close()


def _settle_memory() -> None:
    """What is loaded stays: the collector need not look at it again, and what loading freed goes back."""
    gc.freeze()
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
        backlog=_BACKLOG,
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


def _required_token(host: str, auth: str | None) -> str | None:
    """The bearer token that requests need, None where none is asked for."""
    if auth not in (None, "token", "none"):
        raise InputError(f"auth is {auth!r}; expected token or none.")
    if auth is None and not _is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines. Say --auth token (and set {TOKEN_VARIABLE}) to ask callers "
            "for a token, --auth none to serve anybody on purpose, or --host 127.0.0.1 to stay on this machine."
        )
    if auth != "token":
        return None
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise InputError(f"Auth is token, but {TOKEN_VARIABLE} is not set. Put the token there and start again.")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket, before anything is loaded: a port in use is said at once."""
    if not 0 <= port <= 65535:
        raise InputError(f"Port {port} does not exist; expected 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(
            f"{host} is no address of this machine: {error.strerror}. Give one, such as 127.0.0.1."
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Listening already refuses a second server on the port; connections wait until the release is loaded.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(_bind_problem(host, port, error)) from error
    return listener


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program. Stop that one, or give another with --port "
            "(0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has. Give one from 1024 up with --port."
    return f"{host} port {port} can't be listened on: {error.strerror}. Give an address of this machine with --host."
