"""A release in, recommendations over HTTP out."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from endcap.releases.bundle import open_release
from endcap.serving.door import Auth, bind, required_token

# No stage of an answer uses BLAS with more than one thread; its pool would cost start-up time and memory. It is made
# when NumPy is first imported, so this comes before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["run_server"]


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
    token = required_token(host, auth)
    listener = bind(host, port)
    try:
        # A server that starts in half a second can be started when it is needed: the digests are computed while NumPy
        # and ONNX Runtime are imported, and the graphs are loaded while the rest is.
        with ThreadPoolExecutor(1) as pool:
            opened = pool.submit(open_release, release_path)
            from endcap.serving.graphs import open_graphs

            release = opened.result()
            graphs = pool.submit(open_graphs, release)
            from endcap.serving.predictor import Predictor
            from endcap.serving.server import serve

            predictor = Predictor(release, graphs)
        serve(predictor, listener, host, model_name, token, on_ready)
    finally:
        listener.close()
