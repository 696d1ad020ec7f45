from __future__ import annotations

import errno
from pathlib import Path

import duckdb
import pytest
from deltalake.exceptions import DeltaError

from endcap.contracts.errors import ArtifactError, DiskFullError, EndcapError, InputError, TransientError
from endcap.engines.failures import explained, is_disk_full
from endcap.workspace.layout import Workspace


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DiskFullError,
            "The disk that holds .*shop is full: the ingest",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError, "Free some space"),
        (duckdb.IOException("Could not write file: No space left on device"), DiskFullError, "is full"),
        (duckdb.OutOfMemoryException("limit set by 'max_temp_directory_size'"), DiskFullError, "is full"),
        (caused(TransientError("could not be written"), OSError(errno.ENOSPC, "x")), DiskFullError, "is full"),
        (DeltaError("Generic LocalFileSystem error: No space left on device"), DiskFullError, "is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), InputError, "a.csv may not be read or written"),
        (
            OSError(errno.EROFS, "Read-only file system", "shop"),
            InputError,
            "shop may not be read or written: Read-only",
        ),
        (duckdb.IOException("Cannot open file: Permission denied"), InputError, "permissions"),
        (OSError(errno.EIO, "Input/output error"), TransientError, "stopped by the system: .*Input/output error"),
        (duckdb.OutOfMemoryException("Out of Memory Error"), TransientError, "--memory-limit"),
        (
            duckdb.InvalidInputException("Invalid Input Error: no magic bytes\nmore"),
            ArtifactError,
            "no magic bytes. What",
        ),
        (DeltaError("Not a Delta table"), ArtifactError, "stopped by the engine: Not a Delta table"),
        (InputError("as it is"), InputError, "^as it is$"),
    ],
)
def test_whose_turn_it_is(tmp_path: Path, error: Exception, kind: type[EndcapError], message: str) -> None:
    workspace = Workspace.init(tmp_path / "shop")
    with pytest.raises(EndcapError, match=message) as raised, explained(workspace, "the ingest"):
        raise error
    assert type(raised.value) is kind


def test_faults_of_the_program_stay_faults(tmp_path: Path) -> None:
    with pytest.raises(KeyError), explained(Workspace.init(tmp_path / "shop"), "the ingest"):
        raise KeyError("No space left on device?")


def test_a_name_is_no_full_disk() -> None:
    assert not is_disk_full(None)
    assert not is_disk_full(FileNotFoundError(errno.ENOENT, "No such file", "File too large.csv"))
    assert not is_disk_full(InputError("No space left on device: so a row's title says"))
