from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.workspace import atomic


def test_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic.write_text(path, "één")
    atomic.write_text(path, "zwei")
    assert path.read_bytes() == b"zwei"
    assert [found.name for found in path.parent.iterdir()] == ["b.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_json_is_readable_and_keeps_order(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": [None]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": [\n    null\n  ]\n}\n'


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def no_space(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "releases" / "one"
    with atomic.publish_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "sub" / "a.txt").read_text() == "a"
    assert [found.name for found in target.parent.iterdir()] == ["one"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic.publish_folder(tmp_path / "one") as folder:
            (folder / "a.txt").write_text("a")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_published_folder_is_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "one"

    def publish(*, meanwhile: bool) -> None:
        with atomic.publish_folder(target) as folder:
            (folder / "a.txt").write_text("new")
            if meanwhile:
                target.mkdir()
                (target / "a.txt").write_text("theirs")

    with pytest.raises(InputError, match="exists already"):
        publish(meanwhile=True)
    with pytest.raises(InputError, match="exists already"):
        publish(meanwhile=False)
    assert (target / "a.txt").read_text() == "theirs"
    assert [found.name for found in tmp_path.iterdir()] == ["one"]
