"""The disk fills up, or a file may not be read, somewhere in an ingest: what is said, what stands, and what comes next."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import DiskFullError, InputError
from endcap.contracts.events import EVENTS
from endcap.ingest import landing
from endcap.ingest.pipeline import ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import manifests, tables
from endcap.workspace.layout import Workspace

SETTINGS = IngestSettings(latest_us=1_767_225_600_000_000)


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Let the system itself refuse larger files, to all that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_and_the_next_ingest_succeeds(
    workspace: Workspace, export: Any, event: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export("1.parquet", event("a", 0))
    ingest(workspace, toy, folder, settings=SETTINGS)
    before = tables.current_dataset(workspace)
    export("1.parquet", event("a", 0), event("b", 1))

    def fails() -> None:
        with pytest.raises(DiskFullError, match=r"shop is full: the ingest of .*export could not be written"):
            ingest(workspace, toy, folder, settings=SETTINGS)
        assert tables.current_dataset(workspace) == before
        assert tables.read_table(workspace, EVENTS)["event_id"].to_pylist() == ["a"]
        assert not list(workspace.scratch.iterdir())

    # The engine's own files, then those of the tables' library, then this project's: the system refuses them all.
    with files_no_larger_than(500):
        fails()
    stage = landing.stage
    with monkeypatch.context() as patch:
        patch.setattr(landing, "stage", lambda *given, **more: (stage(*given, **more), limit(2_000))[0])

        def limit(num_bytes: int) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before_limit[1]))

        before_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            fails()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before_limit)
    for place, name in ((tables, "write_deltalake"), (manifests, "write_json"), (tables, "publish_dataset")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            fails()
    ingest(workspace, toy, folder, settings=SETTINGS)
    assert tables.read_table(workspace, EVENTS)["event_id"].to_pylist() == ["a", "b"]


def test_a_file_that_may_not_be_read(
    workspace: Workspace, export: Any, event: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export("1.parquet", event("a", 0))
    file = folder / "1.parquet"
    opened = Path.open

    def refuse(path: Path, *given: Any, **more: Any) -> Any:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"1\.parquet may not be read or written: Permission denied. Change its"):
        ingest(workspace, toy, folder, settings=SETTINGS)
    assert not list(workspace.events.iterdir())
