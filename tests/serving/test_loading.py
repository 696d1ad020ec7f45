"""Versions come and go while requests are answered: load, warm, switch, drain."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import MANIFEST, QUERY_GRAPH, REGISTRY, ReleaseManifest
from endcap.releases.bundle import open_release
from endcap.releases.registry import Registry
from endcap.releases.storage import FolderStore
from endcap.serving import loading
from endcap.serving.batching import Batcher
from endcap.serving.errors import RequestError
from endcap.serving.instances import Limits
from endcap.serving.loading import Loader
from endcap.serving.metrics import Metrics
from endcap.serving.opening import load_first
from endcap.serving.settings import All, ModelSettings, Specific, VersionPolicy
from endcap.serving.sources import AliasOfReleases, source_of
from endcap.serving.versions import Models, ServedModel, State


def add_version(folder: Path, release: Path, number: int) -> Path:
    """The release once more, under a number and with a digest of its own."""
    target = folder / str(number)
    aside = folder / f".{number}"
    shutil.copytree(release, aside)
    manifest = msgspec.json.decode((release / MANIFEST).read_bytes(), type=ReleaseManifest)
    renamed = msgspec.structs.replace(manifest, name=f"small-{number}")
    (aside / MANIFEST).write_bytes(msgspec.json.encode(renamed))
    aside.rename(target)
    return target


class Running:
    """A loader with one model, without a server around it."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.metrics = Metrics()
        load_first(model, self.metrics)
        self.batcher = Batcher(self.metrics)
        self.models = Models([model])
        self.loader = Loader(self.models, self.batcher, self.metrics)

    async def ask(self, version: int | None = None) -> Any:
        """One answer of the version that a request means."""
        loaded = self.model.find(version).in_service
        request = loaded.predictor.decoder.check(None, [{"user_id": "cyd"}], Limits(k=3), "arrays", "instances")
        return await self.batcher.submit(loaded.work, request, 10)

    @property
    def states(self) -> dict[int, str]:
        return {number: version.state.value for number, version in sorted(self.model.versions.items())}


def run(
    folder: Path, scenario: Callable[[Running], Awaitable[None]], policy: VersionPolicy | None = None, **settings: Any
) -> None:
    """Let the scenario play on a model whose versions lie in the folder."""
    if policy is not None:
        settings["policy"] = policy
    model = ServedModel(ModelSettings("small", **({"source": source_of(folder)} | settings)))

    async def play() -> None:
        running = Running(model)
        running.batcher.start()
        try:
            await scenario(running)
        finally:
            running.batcher.stop()

    asyncio.run(play())


@pytest.fixture
def versions(tmp_path: Path, release: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    add_version(folder, release, 1)
    yield folder
    gc.unfreeze()


def test_f1_a_new_version_takes_over_and_the_old_one_goes(versions: Path, release: Path) -> None:
    async def scenario(running: Running) -> None:
        add_version(versions, release, 2)
        assert running.model.find().number == 1
        await running.loader.reconcile()
        assert running.states == {1: "END", 2: "AVAILABLE"}
        assert running.model.find().in_service.predictor.release.manifest.name == "small-2"
        assert len((await running.ask()).ids[0]) == 3

    run(versions, scenario)


def test_f2_f6_a_version_that_cannot_be_loaded_leaves_the_old_one(versions: Path, release: Path) -> None:
    async def scenario(running: Running) -> None:
        damaged = add_version(versions, release, 2) / QUERY_GRAPH
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1] + b"\0")
        await running.loader.reconcile()
        assert running.states == {1: "AVAILABLE", 2: "END"}
        assert running.model.versions[2].error.startswith(f"2/{QUERY_GRAPH} is not the file that was released")
        assert running.model.find().number == 1
        first = running.model.versions[2]
        await running.loader.reconcile()
        assert running.model.versions[2] is first  # not tried again before something changed
        damaged.write_bytes(whole)
        os.utime(damaged, ns=(10**18 * 2, 10**18 * 2))
        await running.loader.reconcile()
        assert running.states == {1: "END", 2: "AVAILABLE"}

    run(versions, scenario)


def test_f2_a_damaged_newest_version_does_not_keep_a_server_from_starting(versions: Path, release: Path) -> None:
    (add_version(versions, release, 2) / QUERY_GRAPH).write_bytes(b"no graph")

    async def scenario(running: Running) -> None:
        assert running.states == {1: "AVAILABLE", 2: "END"}
        assert running.model.find().number == 1

    run(versions, scenario)
    (versions / "1" / QUERY_GRAPH).unlink()
    with pytest.raises(ArtifactError, match="its digest differs"):
        run(versions, scenario)


def test_f3_rollback_to_a_pinned_lower_version(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)

    async def scenario(running: Running) -> None:
        assert running.states == {2: "AVAILABLE"}
        running.model.policy = Specific((1,))
        await running.loader.reconcile()
        assert running.states == {1: "AVAILABLE", 2: "END"}
        add_version(versions, release, 3)
        await running.loader.reconcile()
        assert running.model.find().number == 1  # a pin holds against newer ones

    run(versions, scenario)


def test_f3_an_alias_moves_back(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)
    registry = Registry(FolderStore(versions.parent / REGISTRY))
    for number in (1, 2):
        opened = open_release(versions / str(number))
        renamed = msgspec.structs.replace(opened.manifest, name="small")
        registry.register(type(opened)(opened.path, renamed, opened.digest))
    registry.move_alias("small", "champion", 2, moved_by="test")
    source = AliasOfReleases(versions.parent, "small", "champion")

    async def scenario(running: Running) -> None:
        assert running.states == {2: "AVAILABLE"}
        registry.move_alias("small", "champion", 1, moved_by="test")
        await running.loader.reconcile()
        assert running.states == {1: "AVAILABLE", 2: "END"}
        assert running.model.labels == {"champion": 1}
        registry.move_alias("small", "champion", None, moved_by="test")
        await running.loader.reconcile()
        assert running.model.find().number == 1  # an alias that names nothing stops no server

    run(versions, scenario, source=source)


def test_f4_a_label_stays_until_the_version_it_is_to_name_is_loaded(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)

    async def scenario(running: Running) -> None:
        assert running.model.labels == {"stable": 1}
        assert running.states == {1: "AVAILABLE", 2: "AVAILABLE"}  # 2 by the policy, 1 for its label
        running.model.wished_labels["stable"] = 3
        await running.loader.reconcile()
        assert running.model.labels == {"stable": 1}
        (add_version(versions, release, 3) / QUERY_GRAPH).write_bytes(b"no graph")
        await running.loader.reconcile()
        assert running.model.labels == {"stable": 1}
        assert running.model.find(label="stable").number == 1
        running.model.wished_labels["stable"] = 2
        await running.loader.reconcile()
        assert running.model.labels == {"stable": 2}
        assert running.states == {1: "END", 2: "AVAILABLE", 3: "END"}

    run(versions, scenario, labels={"stable": 1})


def test_f5_requests_in_flight_finish_on_the_version_that_goes(
    versions: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(running: Running) -> None:
        running.batcher.max_seconds_on_loop = 0.0  # everything to the worker thread
        loaded = running.model.find().in_service
        held = threading.Event()
        begin = loaded.predictor.retriever.begin  # type: ignore[union-attr]

        def slow(*arguments: Any, **options: Any) -> Any:
            assert held.wait(10)
            return begin(*arguments, **options)

        monkeypatch.setattr(loaded.predictor.retriever, "begin", slow)
        answer = asyncio.ensure_future(running.ask())
        await asyncio.sleep(0)
        add_version(versions, release, 2)
        switch = asyncio.create_task(running.loader.reconcile())
        async with asyncio.timeout(10):
            while running.states != {1: "UNLOADING", 2: "AVAILABLE"}:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert running.states == {1: "UNLOADING", 2: "AVAILABLE"}
        held.set()
        assert len((await answer).ids[0]) == 3
        await switch
        assert running.states == {1: "END", 2: "AVAILABLE"}

    run(versions, scenario)


@pytest.mark.parametrize(
    ("max_seconds_on_loop", "num_at_once"), [(10.0, 1), (10.0, 40), (0.0, 1)], ids=["loop", "beside it", "thread"]
)
def test_a_version_that_ended_leaves_no_memory_behind(
    versions: Path, release: Path, max_seconds_on_loop: float, num_at_once: int
) -> None:
    async def scenario(running: Running) -> None:
        running.batcher.max_seconds_on_loop = max_seconds_on_loop
        await asyncio.gather(*(running.ask() for _ in range(num_at_once)))
        gone = weakref.ref(running.model.find().in_service.predictor)
        add_version(versions, release, 2)
        gc.disable()
        await running.loader.reconcile()
        gc.enable()
        assert gone() is None

    run(versions, scenario)


def test_all_versions_and_one_taken_away(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)

    async def scenario(running: Running) -> None:
        assert running.states == {1: "AVAILABLE", 2: "AVAILABLE"}
        assert [len((await running.ask(number)).ids[0]) for number in (1, 2)] == [3, 3]
        shutil.rmtree(versions / "2")
        await running.loader.reconcile()
        assert running.states == {1: "AVAILABLE", 2: "END"}
        shutil.rmtree(versions)
        await running.loader.reconcile()
        assert running.states[1] == "AVAILABLE"  # a folder that can't be seen stops no server

    run(versions, scenario, policy=All())


def test_l4_loading_and_unloading_at_once_ends_where_it_was_told_last(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)

    async def scenario(running: Running) -> None:
        async def flip(turn: int) -> None:
            await asyncio.sleep(0.02 * turn)
            running.model.policy = Specific((1 + turn % 2,))
            await running.loader.reconcile()

        async def ask(turn: int) -> None:
            await asyncio.sleep(0.01 * turn)
            assert len((await running.ask()).ids[0]) == 3

        turns = [*(flip(turn) for turn in range(10)), *(ask(turn) for turn in range(20))]
        await asyncio.wait_for(asyncio.gather(*turns), 60)
        assert running.states == {1: "END", 2: "AVAILABLE"}

    run(versions, scenario)


def test_f7_what_is_loading_when_the_server_stops_is_let_go(versions: Path, release: Path, monkeypatch: Any) -> None:
    async def scenario(running: Running) -> None:
        held = threading.Event()
        monkeypatch.setattr(loading, "load", lambda *_: held.wait(10))
        add_version(versions, release, 2)
        task = asyncio.create_task(running.loader.reconcile())
        await until(lambda: running.states.get(2) == "LOADING")
        assert running.model.versions[2].state is State.LOADING
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert running.model.find().number == 1
        assert running.loader.is_at_work
        held.set()

    run(versions, scenario)


def test_a_policy_that_nothing_fits(versions: Path) -> None:
    async def never(running: Running) -> None:
        raise AssertionError

    with pytest.raises(InputError, match="no version that is wanted is there; there are: 1"):
        run(versions, never, policy=Specific((7,)))


def test_a_list_of_models_is_changed_while_requests_are_answered(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)
    other = versions.parent / "other"
    other.mkdir()
    add_version(other, release, 5)
    kept = ModelSettings("small", source_of(versions), place="small")

    async def scenario(running: Running) -> None:
        models = running.models
        added = ModelSettings("other", source_of(other), place="other")
        await running.loader.configure([msgspec.structs.replace(kept, policy=Specific((1,)), labels={"old": 1}), added])
        assert [model.name for model in models.served] == ["small", "other"]
        assert models.served[0] is running.model  # what it has loaded stays
        assert running.states == {1: "AVAILABLE", 2: "END"}
        assert models.find("other").number == 5
        assert models.by_predict_path[b"/v1/models/other:predict"].name == "other"
        (versions / "1" / QUERY_GRAPH).write_bytes(b"no graph")
        broken = ModelSettings("third", source_of(versions), Specific((1,)), place="third")
        with pytest.raises(RequestError, match=r"third: .*its digest differs"):
            await running.loader.configure([added, broken])
        assert [model.name for model in models.served] == ["small", "other"]  # all of it, or nothing
        await running.loader.configure([added])
        assert [model.name for model in models.served] == ["other"]
        assert running.states[1] == "END"

    run(versions, scenario, place="small")


def test_the_file_of_models_is_read_again(versions: Path, release: Path) -> None:
    add_version(versions, release, 2)
    file = versions.parent / "models.txt"

    def write(policy: str) -> None:
        file.write_text(
            f'model_config_list {{ config {{ name: "small" base_path: "{versions}" model_version_policy {{ {policy} }} }} }}'
        )

    async def scenario(running: Running) -> None:
        write("all {}")
        watch = asyncio.create_task(running.loader.watch(0.01, [versions / "none.txt", file]))
        await asyncio.sleep(0.05)
        assert running.states == {2: "AVAILABLE"}  # as the server started
        write("specific { versions: 1 }")
        await until(lambda: running.states == {1: "AVAILABLE", 2: "END"})
        file.write_text("no list")
        await asyncio.sleep(0.05)
        assert running.states == {1: "AVAILABLE", 2: "END"}
        write("all {}")
        await until(lambda: running.states == {1: "AVAILABLE", 2: "AVAILABLE"})
        watch.cancel()

    run(versions, scenario, place=str(versions))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)
