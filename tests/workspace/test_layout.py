from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.layout import FOLDERS, MARKER, Workspace


def test_init_makes_the_folders_and_a_private_marker(tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path / "deep" / "shop")
    assert sorted(path.name for path in workspace.path.iterdir()) == [*FOLDERS, MARKER]
    assert stat.S_IMODE((workspace.path / MARKER).stat().st_mode) == 0o600
    folders = [
        workspace.events,
        workspace.features,
        workspace.runs,
        workspace.releases,
        workspace.serving,
        workspace.reports,
    ]
    assert [folder.name for folder in folders] == list(FOLDERS)
    assert all(folder.is_dir() for folder in folders)


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    first = Workspace.init(tmp_path)
    (first.events / "mine").write_text("kept")
    marker = (tmp_path / MARKER).read_bytes()
    assert Workspace.init(tmp_path) == first
    assert (tmp_path / MARKER).read_bytes() == marker
    assert (first.events / "mine").read_text() == "kept"


def test_of_several_that_make_it_at_once_one_gives_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            made = list(pool.map(Workspace.init, [tmp_path / str(number)] * 4))
            assert {workspace.key for workspace in made} == {Workspace.open(tmp_path / str(number)).key}


def test_init_leaves_a_folder_with_other_things_in_it_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("kept")
    Workspace.init(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "kept"


def test_init_on_a_file(tmp_path: Path) -> None:
    (tmp_path / "shop").touch()
    with pytest.raises(InputError, match="shop is a file; a workspace is a folder"):
        Workspace.init(tmp_path / "shop")


def test_open_says_what_is_missing_and_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"it has no endcap\.yaml\. Make one with: endcap init {tmp_path}"):
        Workspace.open(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        Workspace.open(tmp_path / "none")


def test_open_makes_missing_folders_again(tmp_path: Path) -> None:
    Workspace.init(tmp_path).reports.rmdir()
    assert Workspace.open(tmp_path).reports.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "it is no YAML"),
        (b"a: [", "it is no YAML"),
        (b"hello", "it holds no keys"),
        (b"format_version: 2\nworkspace_key: 00\n", "has format version 2; this Endcap reads 1"),
        (b"format_version: 1\n", "workspace_key is no hex text"),
        (b"format_version: 1\nworkspace_key: 'abcd'\n", "workspace_key has 2 bytes, 32 were expected"),
    ],
)
def test_a_damaged_marker(tmp_path: Path, content: bytes, message: str) -> None:
    Workspace.init(tmp_path)
    (tmp_path / MARKER).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Workspace.open(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        Workspace.init(tmp_path)


def test_user_keys_differ_by_user_and_workspace_and_stay(tmp_path: Path) -> None:
    one, other = Workspace.init(tmp_path / "one"), Workspace.init(tmp_path / "other")
    assert one.user_key("17850") == Workspace.open(one.path).user_key("17850")
    assert len({one.user_key("17850"), one.user_key("17851"), other.user_key("17850")}) == 3
    assert len(one.user_key("17850")) == 16
    assert int(one.user_key("Ünïcode"), 16) >= 0


def test_the_key_is_not_printed(tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path)
    assert workspace.key.hex() not in repr(workspace)
    assert repr(workspace) == f"Workspace(path={tmp_path!r})"
