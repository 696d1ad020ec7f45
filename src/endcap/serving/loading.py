"""Places where releases lie in, loaded versions out, whenever something there has changed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from endcap.contracts.errors import EndcapError
from endcap.serving.batching import Batcher
from endcap.serving.control import Control
from endcap.serving.errors import RequestError
from endcap.serving.metrics import Metrics
from endcap.serving.opening import load, load_first, note_failure
from endcap.serving.settings import ModelSettings
from endcap.serving.threads import Threads
from endcap.serving.versions import Loaded, Models, ServedModel, State, Version, chosen

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A version that could not be loaded is tried again after so long, or as soon as its folder changes.
RETRY_SECONDS: Final = 60.0
_IDLE_POLL_SECONDS: Final = 0.01


class Loader:
    """Keeps the versions of all models as their sources and policies want them: load, warm, switch, drain."""

    def __init__(self, models: Models, batcher: Batcher, metrics: Metrics, control: Control | None = None) -> None:
        self._models, self._batcher, self._metrics = models, batcher, metrics
        self._control = control or Control()
        self._turn = asyncio.Lock()
        self._failed: dict[tuple[str, int], tuple[float, float]] = {}
        self._threads = Threads()

    async def watch(self, poll_seconds: float, model_config_files: Sequence[Path] = ()) -> None:
        """Look again and again, until cancelled; into the files that list the models too, where there are any."""
        read_at = {file: _written_at(file) for file in model_config_files}
        while True:
            await asyncio.sleep(poll_seconds)
            for file in model_config_files:
                written_at = _written_at(file)
                if written_at not in (read_at[file], 0):  # 0: just being replaced, or gone; what was read stays
                    read_at[file] = written_at
                    await self._read_again(file)
            await self.reconcile()

    async def _read_again(self, model_config_file: Path) -> None:
        from endcap.serving.configuration_files import read_models
        from endcap.serving.sources import source_at

        try:
            await self.configure(await self.in_thread(lambda: read_models(model_config_file, source_at)))
        except (EndcapError, RequestError) as error:
            logger.error("What was served goes on: %s", error)

    def forget_failures(self) -> None:
        """Let versions that could not be loaded be tried at the next turn, not only after a while."""
        self._failed.clear()

    async def versions_of(self, model: ServedModel) -> list[int]:
        """The versions that lie in the model's place. Raises what the place fails with."""
        return await self.in_thread(model.settings.source.versions)

    async def reconcile(self) -> None:
        """Bring every model to what its source, its policy and the operator say."""
        async with self._turn:
            self._heed_operator()
            for model in self._models.served:
                try:
                    await self._reconcile(model)
                except Exception as error:  # whatever the source's place fails with: what is loaded goes on
                    logger.error(
                        "The versions of %s can't be looked up: %s: %s", model.name, type(error).__name__, error
                    )

    def _heed_operator(self, *, anew: bool = False) -> None:
        try:
            self._control.apply(self._models, anew=anew)
        except EndcapError as error:
            logger.error("What was set of the models stays as it was: %s", error)

    async def configure(self, wished: Sequence[ModelSettings]) -> None:
        """Serve these models and no others: one of the same name and place keeps what it has loaded.

        Raises RequestError (400) where the newest version of a further one can't be loaded; nothing is changed then.
        """
        async with self._turn:
            served = {(model.name, model.settings.place): model for model in self._models.served}
            models: list[ServedModel] = []
            for settings in wished:
                model = served.get((settings.name, settings.place))
                if model is None:
                    model = ServedModel(settings)
                    await self._first_load(model)
                models.append(model)
            # Nothing is waited for from here on: either all of it is in force, or none.
            for model, settings in zip(models, wished, strict=True):
                model.settings = msgspec.structs.replace(settings, source=model.settings.source)
            gone = [model for model in self._models.served if model not in models]
            self._models.replace(models)
            self._heed_operator(anew=True)
            for model in gone:
                for number in model.available:
                    await self._unload(model, model.versions[number])
        await self.reconcile()

    async def _first_load(self, model: ServedModel) -> None:
        try:
            await self.in_thread(lambda: load_first(model, self._metrics))
        except EndcapError as error:
            raise RequestError(400, f"{model.name}: {error}") from error

    async def _reconcile(self, model: ServedModel) -> None:
        source = model.settings.source
        there, source_labels = await self.in_thread(lambda: (source.versions(), dict(source.labels())))
        model.wanted = chosen(model.policy, there)
        wished = source_labels | model.wished_labels
        needed = model.wanted | (set(wished.values()) & set(there))
        for number in sorted(needed.difference(model.available), reverse=True):
            await self._load(model, number)
        available = set(model.available)
        # A label stays where it is until the version that it is to name is there.
        kept = {label: number for label, number in model.labels.items() if label in wished}
        model.labels = kept | {label: number for label, number in wished.items() if number in available}
        # Where nothing is there, nobody wished that: the place can't be seen. Where nothing that is wanted could be
        # loaded, the newest of the others goes on answering.
        if there:
            stays = {version.number for version in [model.current] if version is not None}
            for number in sorted(available - needed - stays - set(model.labels.values())):
                await self._unload(model, model.versions[number])
        await self._give_items(model)
        model.tidy()

    async def _load(self, model: ServedModel, number: int) -> None:
        source = model.settings.source
        key = (model.name, number)
        if key in self._failed:
            failed_at, changed_at = self._failed[key]
            is_changed = await self.in_thread(lambda: source.changed_at(number)) != changed_at
            if not is_changed and time.monotonic() - failed_at < RETRY_SECONDS:
                return
        version = model.versions[number] = Version(number, State.LOADING)
        started = time.perf_counter()
        try:
            loaded = await self.in_thread(lambda: self._load_whole(model, number))
        except Exception as error:
            note_failure(model, version, error)
            self._failed[key] = (time.monotonic(), await self.in_thread(lambda: source.changed_at(number)))
            await self.in_thread(lambda: source.drop(number))  # a copy that was damaged is fetched anew
        else:
            self._failed.pop(key, None)
            version.loaded, version.state = loaded, State.AVAILABLE
            logger.info("%s version %d is loaded", model.name, number)
        self._metrics.count_load(model.name, version.loaded is not None, time.perf_counter() - started)
        await self.in_thread(settle_memory)

    def _load_whole(self, model: ServedModel, number: int) -> Loaded:
        """The version with the products that were added to the model."""
        loaded = load(model.settings.source.fetch(number), self._metrics.of_model(model.name))
        self._control.give_items(model.name, number, loaded.predictor)
        return loaded

    async def _give_items(self, model: ServedModel) -> None:
        for number in model.available:
            loaded = model.versions[number].loaded
            if loaded is not None and self._control.owes(model.name, loaded.predictor):
                give, predictor = self._control.give_items, loaded.predictor
                await self.in_thread(partial(give, model.name, number, predictor))

    async def _unload(self, model: ServedModel, version: Version) -> None:
        """Let the version finish what it was asked, then free its memory."""
        version.state = State.UNLOADING
        if version.loaded is not None:
            work = version.loaded.work
            while not self._batcher.is_idle(work):
                await asyncio.sleep(_IDLE_POLL_SECONDS)
            self._batcher.forget(work)
            del work
        version.loaded = None
        version.state = State.END
        logger.info("%s version %d is unloaded", model.name, version.number)
        source = model.settings.source
        await self.in_thread(lambda: source.drop(version.number))
        await self.in_thread(settle_memory)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """The result of what may take long."""
        return await self._threads.run(call)

    @property
    def is_at_work(self) -> bool:
        """Whether a thread loads something, or looks somewhere, whether or not anybody waits for it."""
        return self._threads.is_at_work


def settle_memory(*, collects: bool = True) -> None:
    """What is loaded stays: the collector need not look at it again, and what loading freed goes back.

    Requests leave next to no cycles behind, so it may look for them more seldom than after every 700 objects.
    """
    if collects:
        gc.collect()
    gc.freeze()
    gc.enable()  # whoever starts a server may have turned it off
    gc.set_threshold(20_000, 50, 50)
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _written_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
