"""Bytes, text, JSON or a folder in, a file or folder that is either wholly there or not at all out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from endcap.contracts.errors import InputError

DEFAULT_MODE = 0o644


def write_bytes(path: Path, data: bytes, *, mode: int = DEFAULT_MODE) -> None:
    """Replace the file at `path` by `data`, creating parent folders; a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str, *, mode: int = DEFAULT_MODE) -> None:
    """Replace the file at `path` by `text` in UTF-8."""
    write_bytes(path, text.encode(), mode=mode)


def write_json(path: Path, value: Any, *, mode: int = DEFAULT_MODE) -> None:
    """Replace the file at `path` by `value` as indented JSON with a final newline; keys keep their order."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", mode=mode)


@contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` when the block ends without an error.

    Raises InputError when `target` exists already, before or after the block: a published folder is never overwritten.
    """
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield aside
        aside.chmod(0o755)
        for path in sorted(aside.rglob("*")):
            if path.is_file():
                _sync_file(path)
            else:
                _sync_folder(path)
        _sync_folder(aside)
        _refuse_existing(target)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} exists already and is never overwritten: choose another name, or remove it first.")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # A rename is durable only once the folder that holds the name is on disk too.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
