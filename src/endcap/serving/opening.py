"""A release's folder in, what answers from it out; a model's place in, its first versions loaded out.

A server starts here: what takes long is under way before the rest of the server is imported.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from endcap.contracts.errors import EndcapError, InputError
from endcap.releases.bundle import open_release
from endcap.serving.versions import Loaded, ServedModel, State, Version, chosen

if TYPE_CHECKING:
    from endcap.serving.metrics import Metrics, ModelCounts

logger = logging.getLogger(__name__)

# What stands before a version's folder in a path.
_FOLDERS: Final = re.compile(r"\S*/(?=\d+(/|\s))")


def load(path: Path, counts: ModelCounts, meanwhile: Callable[[], None] | None = None) -> Loaded:
    """Check the release's digests, load it, and answer made-up requests with it.

    While a thread loads the graphs, `meanwhile` is called. Raises InputError when `path` is no release, ArtifactError when it is damaged.
    """
    # A server that starts in a third of a second can be started when it is needed: the digests are computed while
    # NumPy and ONNX Runtime are imported, and the graphs are loaded while the rest is.
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(open_release, path)
        from endcap.serving.graphs import open_graphs

        release = opened.result()
        graphs = pool.submit(open_graphs, release)
        from endcap.serving.answers import PredictWork
        from endcap.serving.predictor import Predictor

        # Imports stay on this thread: NumPy's own go round in circles, and two threads in them meet halves of modules.
        if meanwhile is not None:
            meanwhile()
        predictor = Predictor(release, graphs)
    predictor.warm()
    return Loaded(predictor, PredictWork(predictor, counts))


def load_first(model: ServedModel, metrics: Metrics, meanwhile: Callable[[], None] | None = None) -> None:
    """Load what the model's policy asks for; of damaged versions the next lower one, so that there is an answer.

    Raises InputError or ArtifactError, that of the newest version, when none can be loaded.
    """
    source = model.settings.source
    there = source.versions()
    model.wanted = chosen(model.policy, there)
    wished = dict(source.labels()) | model.wished_labels
    labelled = set(wished.values()) & set(there)
    if not model.wanted and not labelled:
        names = ", ".join(map(str, there)) or "none"
        raise InputError(f"{model.name}: no version that is wanted is there; there are: {names}.")
    failures: list[EndcapError] = []
    for number in sorted(there, reverse=True):
        is_asked_for = number in model.wanted or number in labelled
        if not is_asked_for and (model.available or number > max(model.wanted, default=0)):
            continue
        version = model.versions[number] = Version(number)
        started = time.perf_counter()
        try:
            version.loaded = load(source.fetch(number), metrics.of_model(model.name), meanwhile)
            version.state = State.AVAILABLE
        except EndcapError as error:
            note_failure(model, version, error)
            failures.append(error)
        metrics.count_load(model.name, version.loaded is not None, time.perf_counter() - started)
    if not model.available:
        raise failures[0]
    model.labels = {label: number for label, number in wished.items() if number in model.available}


def note_failure(model: ServedModel, version: Version, error: Exception) -> None:
    """Say in the version's status, and in the log, why it can't be loaded."""
    version.state = State.END
    if isinstance(error, EndcapError):
        # Where the releases lie on this machine is for its operator, in the log; the status is read by others too.
        version.error = _FOLDERS.sub("", str(error))
    else:
        version.error = f"{type(error).__name__} while loading. The server's log tells where."
    logger.error("%s version %d can't be loaded: %s: %s", model.name, version.number, type(error).__name__, error)
