"""Releases in, recommendations over HTTP out."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from endcap.serving.door import bind, required_tokens
from endcap.serving.settings import ServerSettings
from endcap.serving.tokens import Tokens

# No stage of an answer uses BLAS with more than one thread; its pool would cost start-up time and memory. It is made
# when NumPy is first imported, so this comes before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["run_server"]


def run_server(settings: ServerSettings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return.

    `on_ready` is given the server's URL once it accepts requests. Raises InputError for an address, port or auth that
    can't be used and for a model without a version that is a release, ArtifactError where it has damaged ones alone.
    """
    host = settings.host
    tokens = required_tokens(host, settings.auth, settings.tokens_file)
    listener = bind(host, settings.port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

    def announce() -> None:
        if on_ready is not None:
            on_ready(url)

    try:
        if settings.num_workers == 1:
            _serve(settings, listener, tokens, announce)
            return
        from endcap.serving.workers import Supervisor

        workers = Supervisor(settings.num_workers, lambda _, ready: _serve(settings, listener, tokens, ready))
        workers.run(announce)
    finally:
        listener.close()


def _serve(
    settings: ServerSettings, listener: socket.socket, tokens: Tokens | None, on_ready: Callable[[], None]
) -> None:
    """Load the models and answer on `listener`, in this process."""
    from endcap.serving.loading import load_first
    from endcap.serving.metrics import Metrics
    from endcap.serving.versions import Models, ServedModel

    metrics = Metrics()
    models = Models([ServedModel(one) for one in settings.models], settings.predict_route)
    for model in models.served:
        load_first(model, metrics)
    from endcap.serving.server import Server

    server = Server(settings, models, metrics, tokens)
    server.run(listener, on_ready)
    if server.is_loading:
        # The interpreter would wait for the thread, or die in it: ten seconds after SIGTERM the process must be gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
