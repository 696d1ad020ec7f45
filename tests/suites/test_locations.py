"""What every place has to do alike: the local disk, Google Cloud Storage, S3."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from endcap.contracts.errors import ArtifactError, ConflictError, InputError
from endcap.workspace.locations import Location

PLACES = ["local_location", "gcs_location", "s3_location"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Location:
    return request.getfixturevalue(request.param)


@pytest.fixture
def local_location(tmp_path: Path) -> Location:
    return Location.parse(tmp_path / "place")


def folder_of(path: Path, **files: str) -> Path:
    for name, text in files.items():
        target = path / name.replace("__", "/").replace("_json", ".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path


def race(*writers: Callable[[], object]) -> list[object]:
    """What each of them gave or raised, all let go at once."""
    ready, outcomes = threading.Barrier(len(writers)), []

    def run(writer: Callable[[], object]) -> None:
        ready.wait()
        try:
            outcomes.append(writer())
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_bytes_come_back_as_they_were_written(place: Location) -> None:
    file = place / "a/b.bin"
    assert file.stat() is None
    assert not file.exists()
    written = file.write_bytes(bytes(range(256)) * 10)
    assert file.read_bytes() == bytes(range(256)) * 10
    found = file.stat()
    assert found is not None
    assert (found.num_bytes, found.generation) == (2560, written.generation)
    (place / "empty").write_bytes(b"")
    assert (place / "empty").read_bytes() == b""


def test_a_write_takes_the_place_of_what_was_there(place: Location) -> None:
    file = place / "a"
    first = file.write_bytes(b"first")
    second = file.write_bytes(b"2nd")
    assert file.read_bytes() == b"2nd"
    assert first.generation != second.generation


def test_what_is_missing_is_named(place: Location, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing/here is missing"):
        (place / "nothing/here").read_bytes()
    with pytest.raises(ArtifactError, match=r"nothing/here is missing"):
        (place / "nothing/here").download_file(tmp_path / "target")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        place.download_folder(tmp_path / "folder")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "folder").exists()


def test_only_one_may_write_where_nothing_is(place: Location) -> None:
    file = place / "a/version"
    first = file.write_bytes(b"first", if_absent=True)
    with pytest.raises(ConflictError, match=f"generation {first.generation}.*nothing was expected"):
        file.write_bytes(b"second", if_absent=True)
    assert file.read_bytes() == b"first"


def test_a_generation_is_replaced_once(place: Location) -> None:
    file = place / "alias"
    seen = file.write_bytes(b"1")
    file.write_bytes(b"2", if_generation=seen.generation)
    with pytest.raises(ConflictError, match=f"generation {seen.generation} expected"):
        file.write_bytes(b"3", if_generation=seen.generation)
    with pytest.raises(ConflictError, match="is gone"):
        (place / "other").write_bytes(b"1", if_generation=seen.generation)
    assert file.read_bytes() == b"2"


@pytest.mark.parametrize("is_first", [True, False])
def test_of_writers_at_once_one_wins_and_the_others_are_told(place: Location, is_first: bool) -> None:
    file = place / "race"
    seen = None if is_first else file.write_bytes(b"before").generation
    outcomes = race(
        *[
            lambda text=text: file.write_bytes(text, if_absent=is_first, if_generation=seen)
            for text in (b"a", b"b", b"c", b"d")
        ]
    )
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 3
    assert file.read_bytes() in (b"a", b"b", b"c", b"d")


def test_files_below_are_listed_in_order_and_none_besides(place: Location) -> None:
    for name in ("run/b", "run/a/z", "run/a/b", "run2/a", "run"[:2]):
        (place / name).write_bytes(name.encode())
    assert [str(file.below(place)) for file in (place / "run").list()] == ["run/a/b", "run/a/z", "run/b"]
    assert (place / "run").names() == ["a", "b"]
    assert place.names() == ["ru", "run", "run2"]
    assert (place / "none").list() == [] == (place / "none").names()
    assert not (place / "run").exists()


def test_a_deleted_file_is_gone_and_may_be_deleted_again(place: Location) -> None:
    (place / "a").write_bytes(b"a")
    (place / "a").delete()
    (place / "a").delete()
    assert not (place / "a").exists()


def test_a_file_travels_both_ways(place: Location, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"0123456789" * 1000)
    (place / "a.bin").upload_file(source)
    (place / "a.bin").download_file(tmp_path / "new/folder/target.bin")
    assert (tmp_path / "new/folder/target.bin").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["target.bin"]


def test_a_folder_is_published_by_its_last_file(place: Location, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", z="z", weights__a="aa", manifest_json="{}")
    there = place / "release/1"
    assert [file.below(there) for file in there.upload_folder(source)] == ["weights/a", "z", "manifest.json"]
    assert there.upload_folder(source) == []
    there.download_folder(tmp_path / "target")
    assert (tmp_path / "target/weights/a").read_text() == "aa"
    assert sorted(path.name for path in (tmp_path / "target").rglob("*") if path.is_file()) == [
        "a",
        "manifest.json",
        "z",
    ]


def test_a_broken_upload_goes_on_where_it_stopped(place: Location, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", a="a", b="b", c="c", manifest_json="{}")
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"x")  # as long as the right one
    assert [file.name for file in place.upload_folder(source)] == ["b", "c", "manifest.json"]
    assert (place / "b").read_bytes() == b"b"


def test_a_published_folder_is_never_changed(place: Location, tmp_path: Path) -> None:
    place.upload_folder(folder_of(tmp_path / "one", a="a", manifest_json="1"))
    with pytest.raises(ConflictError, match="holds a published folder with another"):
        place.upload_folder(folder_of(tmp_path / "two", a="b", manifest_json="2"))
    assert (place / "a").read_bytes() == b"a"


def test_a_folder_that_is_not_complete_is_not_published(place: Location, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        place.upload_folder(folder_of(tmp_path / "one", a="a"))
    assert place.list() == []


def test_a_deleted_folder_is_gone_with_all_below(place: Location, tmp_path: Path) -> None:
    (place / "runs/1").upload_folder(folder_of(tmp_path / "one", a__b="a", manifest_json="1"))
    (place / "runs/2").write_bytes(b"a file")
    (place / "runs/1").delete_folder()
    assert (place / "runs").names() == ["2"]
