"""Releases in, recommendations over HTTP out."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from endcap.serving.door import Guard, Listeners, free_grpc_port, guard_of, open_listeners
from endcap.serving.settings import ModelSettings, ServerSettings

if TYPE_CHECKING:
    from endcap.serving.control import Control
    from endcap.serving.metrics import Metrics

# No stage of an answer uses BLAS with more than one thread; its pool would cost start-up time and memory. It is made
# when NumPy is first imported, so this comes before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["run_server"]

# Of a system that sets no limit.
_MOST_FILES: Final = 2**20


def run_server(settings: ServerSettings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return.

    `on_ready` is given the server's URL once it accepts requests. Raises InputError for an address, port or auth that
    can't be used and for a model without a version that is a release, ArtifactError where it has damaged ones alone.
    """
    host = settings.host
    guard = guard_of(settings)
    listeners = open_listeners(settings)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listeners.rest.getsockname()[1]}"

    def announce() -> None:
        if on_ready is not None:
            on_ready(url)

    try:
        settings = msgspec.structs.replace(settings, grpc_port=free_grpc_port(host, settings.grpc_port))
        if settings.num_workers == 1:
            _serve(settings, listeners, guard, announce)
            return
        import tempfile

        from endcap.serving.workers import Supervisor

        # What is set in one process must reach the others, and what all of them count whoever asks one.
        with tempfile.TemporaryDirectory(prefix="endcap-workers-") as folder:
            shared = msgspec.structs.replace(settings, control_dir=settings.control_dir or Path(folder))

            def work(number: int, on_ready: Callable[[], None]) -> None:
                from endcap.serving.shared_metrics import SharedMetrics

                _serve(shared, listeners, guard, on_ready, SharedMetrics(Path(folder), number))

            Supervisor(settings.num_workers, work).run(announce)
    finally:
        listeners.close()


def _serve(
    settings: ServerSettings,
    listeners: Listeners,
    guard: Guard,
    on_ready: Callable[[], None],
    metrics: Metrics | None = None,
) -> None:
    """Load the models and answer on the `listeners`, in this process."""
    from endcap.serving.control import Control
    from endcap.serving.metrics import Metrics
    from endcap.serving.opening import load_first
    from endcap.serving.versions import Models, ServedModel

    _allow_many_connections()
    metrics = metrics or Metrics()
    control = Control(settings.control_dir)
    models = Models([ServedModel(one) for one in _first_models(settings, control)], settings.predict_route)
    control.apply(models)
    for model in models.served:
        load_first(model, metrics, _import_server)
        for version in model.versions.values():
            if version.loaded is not None:
                control.give_items(model.name, version.number, version.loaded.predictor)
    from endcap.serving.server import Server

    server = Server(settings, models, metrics, guard, control)
    server.run(listeners, on_ready)
    if server.is_loading:
        # The interpreter would wait for the thread, or die in it: ten seconds after SIGTERM the process must be gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _allow_many_connections() -> None:
    """As many open files as this process may have: each connection is one, and 1,024 are common until more is asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # the system has limits beside these
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _first_models(settings: ServerSettings, control: Control) -> Sequence[ModelSettings]:
    """Those of the settings, unless the server was given others while it last ran."""
    if control.model_config_file is None or not control.model_config_file.exists():
        return settings.models
    from endcap.serving.configuration_files import read_models
    from endcap.serving.sources import source_at

    return read_models(control.model_config_file, source_at)


def _import_server() -> None:
    """What answers is imported while a thread loads the first graphs, which is native code: each takes as long."""
    import endcap.serving.server  # noqa: F401
