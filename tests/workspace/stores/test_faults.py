"""An object store that answers 503, stalls, breaks off or damages: a transfer completes intact or fails clean."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from endcap.contracts.errors import ArtifactError, DiskFullError, InputError, TransientError
from endcap.workspace.locations import Location
from endcap.workspace.stores import gcs, s3, store
from tests.fault_proxy import CHAOS, Kind, Rules
from tests.object_stores import IMPATIENT, ObjectStore

PLACES = ["gcs", "s3"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Location:
    return request.getfixturevalue(f"{request.param}_location")


@pytest.fixture
def rules(place: Location, request: pytest.FixtureRequest) -> Rules:
    server: ObjectStore = request.getfixturevalue("gcs_server" if place.scheme == "gs" else "s3_server")
    return server.rules


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Sizes at which a file travels in several requests; gives one that makes three. S3's parts have 5 MiB at least."""
    monkeypatch.setattr(gcs, "WHOLE_BYTES", 5 << 20)
    monkeypatch.setattr(s3, "WHOLE_BYTES", 5 << 20)
    monkeypatch.setattr(store, "CHUNK_BYTES", 5 << 20)
    return (10 << 20) + 7


def uploads(place: Location) -> str:
    """What requests that write have in them, and others don't."""
    return "POST .*/upload/|PUT .*/upload/" if place.scheme == "gs" else "^PUT "


def reads(place: Location) -> str:
    return "alt=media" if place.scheme == "gs" else "^GET [^?]*$"


@pytest.mark.parametrize("kind", CHAOS)
def test_what_fails_twice_succeeds_at_last(place: Location, rules: Rules, kind: Kind) -> None:
    rules.inject(kind, uploads(place), times=2)
    rules.inject(kind, reads(place), times=2)
    (place / "a").write_bytes(b"0123456789" * 100)
    assert (place / "a").read_bytes() == b"0123456789" * 100
    assert len(rules.injected) >= 3  # an answer without a body has no half


@pytest.mark.parametrize("kind", ["lost", "503 after"])
def test_a_write_whose_answer_got_lost_has_won(place: Location, rules: Rules, kind: Kind) -> None:
    rules.inject(kind, uploads(place))
    first = (place / "a").write_bytes(b"first", if_absent=True)
    rules.inject(kind, uploads(place))
    second = (place / "a").write_bytes(b"second", if_generation=first.generation)
    assert len(rules.injected) == 2
    found = (place / "a").stat()
    assert found is not None
    assert (found.generation, (place / "a").read_bytes()) == (second.generation, b"second")


@pytest.mark.parametrize("kind", ["stall", "silence"])
def test_a_stall_is_given_up_and_tried_again(place: Location, rules: Rules, tmp_path: Path, kind: Kind) -> None:
    quick = replace(place, patience=replace(IMPATIENT, silence_s=0.2))
    (quick / "a").write_bytes(b"0123456789")
    rules.inject(kind, reads(place))
    (quick / "a").download_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert len(rules.injected) == 1


@pytest.mark.parametrize("kind", ["503", "cut", "silence", "drip"])
def test_what_never_ends_fails_in_time_and_leaves_nothing(
    place: Location, rules: Rules, tmp_path: Path, kind: Kind
) -> None:
    (place / "a").write_bytes(b"0123456789" * 100)
    rules.inject(kind, reads(place), times=1000)
    start = time.monotonic()
    with pytest.raises(TransientError, match=r"a failed after \d+ tr.* in .*What was there before still stands"):
        (place.within(0.8) / "a").download_file(tmp_path / "target")
    assert time.monotonic() - start < 20  # an answer that drips goes on for 50 s, silence for 30 s
    assert list(tmp_path.iterdir()) == []


def test_damage_on_the_way_is_seen(place: Location, rules: Rules, tmp_path: Path) -> None:
    (place / "a").write_bytes(b"0123456789")
    rules.inject("damaged answer", reads(place))
    assert (place / "a").read_bytes() == b"0123456789"
    rules.inject("damaged answer", reads(place), times=1000)
    with pytest.raises(ArtifactError, match="a is damaged"):
        (place / "a").download_file(tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_damage_before_the_store_is_seen(place: Location, rules: Rules) -> None:
    rules.inject("damaged upload", uploads(place), times=1000)
    with pytest.raises(TransientError, match=r"MD5|other bytes"):
        (place.within(0.5) / "a").write_bytes(b"0" * 5000)
    rules.reset()
    (place / "a").write_bytes(b"0" * 5000)
    assert (place / "a").read_bytes() == b"0" * 5000


def test_a_large_file_survives_chaos(place: Location, rules: Rules, tmp_path: Path, small_chunks: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 16) * (small_chunks // (1 << 16)) + b"7 bytes")
    rules.chaos(0.3, seed=5)
    file = place / "large"
    written = file.upload_file(source, if_absent=True)
    file.download_file(tmp_path / "target")
    rules.chaos(0)
    assert len(rules.injected) > 2
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    found = file.stat()
    assert found is not None
    assert (found.generation, found.num_bytes) == (written.generation, source.stat().st_size)


def test_an_upload_in_chunks_goes_on_after_the_last_one_that_arrived(
    gcs_location: Location, gcs_server: ObjectStore, tmp_path: Path, small_chunks: int
) -> None:
    (tmp_path / "source").write_bytes(b"x" * small_chunks)
    gcs_server.rules.inject("lost", "^PUT ", times=1)
    (gcs_location / "large").upload_file(tmp_path / "source")
    # Three chunks, and the question how far the first one came.
    assert len([request for request in gcs_server.rules.seen if request.startswith("PUT ")]) == 4


@pytest.mark.parametrize("kind", CHAOS)
def test_an_upload_in_chunks_goes_on_whichever_request_fails(
    gcs_location: Location, gcs_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(gcs, "WHOLE_BYTES", 0)
    monkeypatch.setattr(store, "CHUNK_BYTES", 256 << 10)
    data = os.urandom((512 << 10) + 7)
    for number in range(4):  # the session's beginning and its three chunks, the last of which ends it
        gcs_server.rules.inject(kind, "/upload/", after=number, times=2)
        written = (gcs_location / str(number)).write_bytes(data, if_absent=True)
        assert (gcs_location / str(number)).read_bytes() == data
        assert (gcs_location / str(number)).stat() == written


def test_a_session_that_is_over_before_its_time_is_begun_again(
    gcs_location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "WHOLE_BYTES", 0)
    put, statuses = gcs._Upload._put, [410, 404]

    def ended(upload: gcs._Upload, data: bytes, what: str, silence_s: float) -> Any:
        if statuses:
            return SimpleNamespace(status_code=statuses.pop(), text="the session is over")
        return put(upload, data, what, silence_s)

    monkeypatch.setattr(gcs._Upload, "_put", ended)
    (gcs_location / "a").write_bytes(b"a" * 100)
    assert (gcs_location / "a").read_bytes() == b"a" * 100
    statuses.extend([410] * 3)
    with pytest.raises(TransientError, match="the store ended 3 uploads before their time"):
        (gcs_location / "b").write_bytes(b"b" * 100)
    assert not (gcs_location / "b").exists()


def test_two_large_uploads_at_once_have_one_winner(place: Location, tmp_path: Path, small_chunks: int) -> None:
    (tmp_path / "source").write_bytes(b"x" * small_chunks)
    (place / "large").write_bytes(b"somebody was first")
    with pytest.raises(InputError, match="nothing was expected there"):
        (place / "large").upload_file(tmp_path / "source", if_absent=True)
    assert (place / "large").read_bytes() == b"somebody was first"


def test_a_folder_whose_upload_broke_is_no_result_until_it_is_taken_up(
    place: Location, rules: Rules, tmp_path: Path
) -> None:
    for name in ("a", "b", "c", "manifest.json"):
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_text(name * 100)
    rules.chaos(0.2, seed=1)
    (place / "whole").upload_folder(tmp_path / "source")
    rules.chaos(0)
    (place / "whole").download_folder(tmp_path / "target")
    rules.seen.clear()
    rules.inject("503", uploads(place), times=1000, after=1)
    with pytest.raises(TransientError):
        (place.within(0.3) / "broken").upload_folder(tmp_path / "source")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        (place / "broken").download_folder(tmp_path / "broken")
    there = (place / "broken").names()
    rules.reset()
    renewed = (place / "broken").upload_folder(tmp_path / "source")
    assert sorted([*there, *(file.name for file in renewed)]) == ["a", "b", "c", "manifest.json"]


def test_a_reader_beside_a_writer_reads_one_of_its_versions(place: Location) -> None:
    versions = [bytes([letter]) * 2000 for letter in b"abcdefgh"]
    (place / "a").write_bytes(versions[0])
    writer = threading.Thread(target=lambda: [(place / "a").write_bytes(version) for version in versions[1:]])
    writer.start()
    while writer.is_alive():
        assert (place / "a").read_bytes() in versions
    writer.join()
    assert (place / "a").read_bytes() == versions[-1]


def test_a_bucket_that_is_not_there_is_named(place: Location) -> None:
    nowhere = replace(place, bucket="no-such-bucket")
    with pytest.raises(InputError, match=r"no bucket (gs|s3)://no-such-bucket"):
        (nowhere / "a").write_bytes(b"a")


@pytest.mark.parametrize(
    ("text", "module", "extra", "variable"),
    [
        ("gs://shop/a", "google.cloud.storage", "gcp", "STORAGE_EMULATOR_HOST"),
        ("s3://shop/a", "botocore.session", "aws", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_missing_client_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, text: str, module: str, extra: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'endcap\[{extra}\]'"):
        Location.parse(text).stat()


def test_a_full_disk_says_so_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Location.parse(tmp_path) / "a"
    file.write_bytes(b"before")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="Free some space"):
        file.write_bytes(b"after")
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
