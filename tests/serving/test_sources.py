"""Versions in a bucket: found once they are whole, fetched when they are served, dropped when they are not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import MANIFEST
from endcap.releases.bundle import open_release
from endcap.serving.batching import Batcher
from endcap.serving.loading import Loader
from endcap.serving.metrics import Metrics
from endcap.serving.opening import load_first
from endcap.serving.settings import ModelSettings
from endcap.serving.sources import RemoteReleases, source_at
from endcap.serving.versions import Models, ServedModel
from endcap.workspace.locations import Location


@pytest.fixture(params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Location:
    location: Location = request.getfixturevalue(f"{request.param}_location")
    return location


def test_versions_of_a_bucket(bucket: Location, release: Path, tmp_path: Path) -> None:
    place = bucket / "models" / "small"
    (place / "1").upload_folder(release)
    (place / "7").upload_folder(release)
    (place / "8" / "query.onnx").write_bytes(b"half an upload: its manifest isn't there yet")
    (place / "notes" / MANIFEST).write_bytes(b"{}")
    source = source_at(str(place), tmp_path / "cache")
    assert isinstance(source, RemoteReleases)
    assert source.versions() == [1, 7]
    fetched = source.fetch(7)
    assert open_release(fetched).digest == open_release(release).digest
    assert source.fetch(7) == fetched
    source.drop(7)
    assert not fetched.exists()
    assert source.labels() == {}


def test_one_release_in_a_bucket(bucket: Location, release: Path, tmp_path: Path) -> None:
    place = bucket / "model"
    place.upload_folder(release)
    source = source_at(str(place), tmp_path)
    assert source.versions() == [1]
    assert open_release(source.fetch(1)).digest == open_release(release).digest


def test_a_bucket_without_a_release(bucket: Location, tmp_path: Path) -> None:
    (bucket / "model" / "query.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=rf"is no release: it has no {MANIFEST}"):
        source_at(str(bucket / "model"), tmp_path)


def test_a_copy_that_was_damaged_is_fetched_anew(bucket: Location, release: Path, tmp_path: Path) -> None:
    place = bucket / "small"
    (place / "1").upload_folder(release)
    source = source_at(str(place), tmp_path / "cache")
    model = ServedModel(ModelSettings("small", source))
    load_first(model, Metrics())
    (place / "2").upload_folder(release)
    (source.fetch(2) / "query.onnx").write_bytes(b"no graph")

    async def scenario() -> None:
        loader = Loader(Models([model]), Batcher(Metrics()), Metrics())
        await loader.reconcile()
        assert model.available == [1]
        loader.forget_failures()  # as after a minute
        await loader.reconcile()
        assert model.available == [2]

    asyncio.run(scenario())
