"""Locations on the local disk, and what a location's name may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.workspace.locations import Location


@pytest.mark.parametrize(
    ("text", "scheme", "bucket", "key", "name"),
    [
        ("gs://shop-models/a/b", "gs", "shop-models", "a/b", "b"),
        ("GS://shop-models/a/b/", "gs", "shop-models", "a/b", "b"),
        ("s3://shop", "s3", "shop", "", "shop"),
        ("models/a", "file", "", "models/a", "a"),
        ("/models/a/", "file", "", "/models/a", "a"),
    ],
)
def test_a_location_is_read(text: str, scheme: str, bucket: str, key: str, name: str) -> None:
    location = Location.parse(text)
    assert (location.scheme, location.bucket, location.key, location.name) == (scheme, bucket, key, name)
    assert Location.parse(str(location)) == location


@pytest.mark.parametrize(
    "text",
    ["", " ", "hdfs://shop/a", "gs://", "gs:///a", "gs://Shop/a", "gs://shop//a", "gs://shop/../a", "s3://shop/a#1"],
)
def test_what_no_location_can_be_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        Location.parse(text)


@pytest.mark.parametrize("child", ["..", "a/../b", "/a", "a//b", "", ".", "a\\b", "a\n", "a?b"])
@pytest.mark.parametrize("folder", ["gs://shop/a", "s3://shop", "models"])
def test_no_child_leaves_its_folder(folder: str, child: str) -> None:
    with pytest.raises(InputError, match="expected names"):
        Location.parse(folder) / child


def test_children_parents_and_what_lies_below() -> None:
    folder = Location.parse("gs://shop").within(3)
    child = folder / "a" / "b/c.json"
    assert str(child) == "gs://shop/a/b/c.json"
    assert child.patience.deadline_s == 3
    assert child.below(folder / "a") == "b/c.json"
    assert child.parent.parent.parent == folder == folder.parent
    with pytest.raises(InputError, match="does not lie below"):
        child.below(Location.parse("gs://other"))
    with pytest.raises(InputError, match="does not lie below"):
        child.below(folder / "b")
    with pytest.raises(InputError, match="expected a local path"):
        _ = child.path


def test_a_local_file_that_may_not_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="found a file where a folder is expected"):
        (Location.parse(tmp_path) / "file/below").write_bytes(b"x")


def test_files_written_aside_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".half.abc.tmp").write_bytes(b"half")
    (Location.parse(tmp_path) / "whole").write_bytes(b"whole")
    assert [found.name for found in Location.parse(tmp_path).list()] == ["whole"] == Location.parse(tmp_path).names()
