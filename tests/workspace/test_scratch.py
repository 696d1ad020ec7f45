"""What a killed process left in the scratch folder goes; what a living one uses stays."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from endcap.engines import duckdb
from endcap.workspace import scratch
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def use_folder(path: Path, ready: Event) -> None:
    with scratch.claimed_folder(Workspace.open(path)) as folder:
        (folder / "spilled").write_text("x")
        ready.set()
        multiprocessing.Event().wait()


def test_what_a_killed_process_left_goes_with_the_next_writer(workspace: Workspace) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=use_folder, args=(workspace.path, ready))
    other.start()
    try:
        assert ready.wait(30)
        [folder] = workspace.scratch.iterdir()
        with exclusive(workspace):
            assert (folder / "spilled").is_file()  # its user lives
    finally:
        other.kill()
        other.join()
    (workspace.scratch / "staged-abc").mkdir()
    (workspace.scratch / "somebody-elses").mkdir()
    with exclusive(workspace):
        assert [path.name for path in workspace.scratch.iterdir()] == ["somebody-elses"]


def test_a_session_keeps_its_folder_and_leaves_none(workspace: Workspace) -> None:
    with duckdb.session(workspace) as connection:
        assert scratch.sweep(workspace) == []
        [folder] = workspace.scratch.iterdir()
        assert connection.con.execute("SELECT current_setting('temp_directory')").fetchone() == (str(folder),)
    assert list(workspace.scratch.iterdir()) == []
    assert scratch.sweep(workspace) == []
